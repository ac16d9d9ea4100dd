//! Every interleaving of raising, masking and handling: no event is lost.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p events --test races --release`
#![cfg(loom)]

use events::{Delivery, EventBits, PortCell, PortTable, UpcallWords, bind_interdomain};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use loom::thread;

struct Page {
    pending: [AtomicU64; 1],
    mask: [AtomicU64; 1],
    upcall: AtomicU8,
    selector: AtomicU64,
    kicks: AtomicU32,
}

impl Page {
    fn new(mask: u64) -> Arc<Self> {
        Arc::new(Self {
            pending: [AtomicU64::new(0)],
            mask: [AtomicU64::new(mask)],
            upcall: AtomicU8::new(0),
            selector: AtomicU64::new(0),
            kicks: AtomicU32::new(0),
        })
    }

    fn raise(&self, port: u32) {
        let bits = EventBits { pending: &self.pending, mask: &self.mask };
        let words = UpcallWords { upcall_pending: &self.upcall, selector: &self.selector };
        if bits.raise(&words, port).kick {
            self.kicks.fetch_add(1, SeqCst);
        }
    }

    fn unmask(&self, port: u32) {
        let bits = EventBits { pending: &self.pending, mask: &self.mask };
        let words = UpcallWords { upcall_pending: &self.upcall, selector: &self.selector };
        if bits.unmask(&words, port) {
            self.kicks.fetch_add(1, SeqCst);
        }
    }

    /// Acts as a kernel does on an upcall: clears the byte, then the selector, then the bits.
    fn handle(&self) -> u64 {
        if self.upcall.swap(0, SeqCst) == 0 || self.selector.swap(0, SeqCst) & 1 == 0 {
            return 0;
        }
        self.pending[0].swap(0, SeqCst)
    }
}

#[test]
fn an_event_raised_while_its_port_is_unmasked_is_told() {
    loom::model(|| {
        let page = Page::new(1 << 5);
        let sender = {
            let page = page.clone();
            thread::spawn(move || page.raise(5))
        };
        page.unmask(5);
        sender.join().unwrap();
        assert_eq!(page.kicks.load(SeqCst), 1);
        assert_eq!(page.handle(), 1 << 5);
    });
}

#[test]
fn two_senders_and_a_handler_lose_nothing() {
    loom::model(|| {
        let page = Page::new(0);
        let senders = [3, 4].map(|port| {
            let page = page.clone();
            thread::spawn(move || page.raise(port))
        });
        let early = page.handle();
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(page.kicks.load(SeqCst) >= 1);
        assert_eq!(early | page.handle(), 0b11000);
    });
}

#[test]
fn connecting_and_closing_at_once_leaves_no_half_connection() {
    loom::model(|| {
        let tables = Arc::new([(); 2].map(|()| {
            (
                [PortCell::default(), PortCell::default()],
                [const { () }; 1].map(|()| AtomicU32::new(0)),
            )
        }));
        let server = PortTable::new(&tables[1].0, &tables[1].1, 0);
        assert_eq!(server.alloc_unbound(0), Ok(1));
        let closer = {
            let tables = tables.clone();
            thread::spawn(move || {
                let server = PortTable::new(&tables[1].0, &tables[1].1, 0);
                let bits = EventBits { pending: &[], mask: &[] };
                if let PortUse::Interdomain { port, .. } = server.close(1, &bits).unwrap() {
                    PortTable::new(&tables[0].0, &tables[0].1, 0).disconnect(port, 1, 1);
                }
            })
        };
        let client = PortTable::new(&tables[0].0, &tables[0].1, 0);
        let bound = bind_interdomain((&client, [0, 0]), (&server, 1), 1);
        closer.join().unwrap();
        match bound {
            Ok(port) => assert_eq!(client.send(port), Ok(Delivery::Dropped)),
            Err(_) => assert!(client.send(1).is_err()),
        }
        assert!(server.send(1).is_err());
    });
}
