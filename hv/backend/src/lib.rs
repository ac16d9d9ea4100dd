//! The back end's half of the negotiation of a block device in the store.
//!
//! A stock front end and its back end agree on rings through nodes of the store, and each end shows
//! a state. The ultravisor holds the store and plays the back end: a [`Negotiation`] decides for one
//! endpoint, and [`Endpoints`] keeps the nodes of all of them.
//!
//! ```text
//! nodes of the front end -+                        +-> nodes of the back end
//! the database -----------+-> Negotiation::handle -+-> orders to the I/O partition
//! reports of the server --+                        +-> incarnations and causes for the database
//! ```
//!
//! The I/O partition sees no store. It gets a finished [`Order::Attach`], so that another one takes
//! over by another attach, while the front end sees nothing.
//!
//! # Incarnations and epochs
//! Each set of rings that is attached has an *incarnation*. Its number is never used again: the next
//! rings of the endpoint are attached only after the server reported [`ReportBody::Detached`] for the
//! last, or after [`Event::Released`]. A *server* has an epoch, and a successor has another. A report counts only if both its
//! epoch and its incarnation are the present ones.
//!
//! # Rules
//! 1. Nothing that a front end writes is trusted. A node is read when it is used, and checked then.
//!    The result is an attach of rings that can be, a wait, or a closed back end with a recorded
//!    [`Cause`].
//! 2. Before the back end shows *closed*, the server has stopped the rings, finished or dropped what
//!    it had taken, and unmapped them, or its life has ended with all that it had mapped; and the next
//!    incarnation has begun.
//! 3. While rings are attached and no server serves them (a failover), the back end shows neither
//!    *closing* nor *closed*: a front end would declare its disk dead. So a successor that refuses the
//!    rings ends nothing either: it gets the attach again.
//! 4. The back end goes from *waiting* to *connected* without a state between them: PV GRUB takes
//!    each state but *waiting* for a connection.
//! 5. Each input causes a bounded number of actions and at most two orders.
//!
//! # The front ends
//! Read in the sources of Linux 6.1 (`xen-blkfront.c`, `xenbus_probe_frontend.c`) and of GRUB 2.06
//! (`disk/xen/xendisk.c`).
//!
//! | front end | its sequence |
//! |---|---|
//! | Linux | waits for 2; writes its nodes in one transaction, then 3; at 4 it reads what is offered and writes 4. It closes by 5, waits for 5, and writes 6; or, when its driver goes, by 6 alone |
//! | Linux after a suspend | writes new rings and 3 while the back end shows 4, and goes on at once |
//! | PV GRUB | writes its nodes and 3 without a wait, then waits until the back end leaves 2. It ends with 6, waits for 6, empties `ring-ref` and `event-channel`, and writes 1 |
//! | a kernel started by kexec | finds 4 or 6 of the kernel before; writes 5, 6 and 1, and waits for 5, 6 and 2 |
//!
//! A kernel with one queue does not remove the nodes that a kernel with several queues left, so a
//! crash kernel would offer its predecessor's rings. Therefore the back end removes
//! `multi-queue-num-queues` and `ring-page-order` when a front end has closed.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod endpoints;
mod features;
mod negotiation;
mod offer;

pub use endpoints::{Effect, Endpoint, Endpoints};
pub use features::{Discard, Features, Value};
pub use negotiation::{Action, Cause, Event, Negotiation, Order, Report, ReportBody, Standing};
pub use offer::{Fault, Frontend, QUEUES_MAX, Queue, Rings};
