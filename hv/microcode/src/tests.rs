use std::cell::{Cell, RefCell};

use super::*;

const SKYLAKE: Identity =
    Identity { vendor: Vendor::Intel, signature: 0x5_0654, platform: 1 << 7, revision: 0x200 };
const ROME: Identity =
    Identity { vendor: Vendor::Amd, signature: 0x83_0f10, platform: 0, revision: 0x830_1000 };

/// A CPU that accepts updates, or not, and records the writes.
struct Model {
    name: &'static [u8; 12],
    signature: u32,
    revision: Cell<u32>,
    takes: Option<u32>,
    written: RefCell<Vec<(u32, u64)>>,
}

impl Model {
    fn new(identity: &Identity, takes: Option<u32>) -> Self {
        let name = match identity.vendor {
            Vendor::Intel => b"GenuineIntel",
            Vendor::Amd => b"AuthenticAMD",
        };
        let revision = Cell::new(identity.revision);
        Self { name, signature: identity.signature, revision, takes, written: RefCell::default() }
    }

    /// The writes to registers that start a load.
    fn loads(&self) -> Vec<(u32, u64)> {
        self.written.borrow().iter().filter(|(register, _)| *register != 0x8b).copied().collect()
    }
}

impl Cpu for Model {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let part = |at| u32::from_le_bytes(*self.name[at..].first_chunk().unwrap());
        match leaf {
            0 => [0xd, part(0), part(8), part(4)],
            1 => [self.signature, 0, 0, 0],
            _ => panic!("leaf {leaf:#x}"),
        }
    }

    fn read(&self, register: u32) -> u64 {
        match register {
            0x17 => 7 << 50,
            // An Intel CPU shows the revision only after a write of zero and `cpuid`.
            0x8b if self.name == b"AuthenticAMD" => self.revision.get().into(),
            0x8b => {
                assert_eq!(self.written.borrow().last(), Some(&(0x8b, 0)));
                u64::from(self.revision.get()) << 32
            }
            _ => panic!("register {register:#x}"),
        }
    }

    fn write(&self, register: u32, value: u64) {
        self.written.borrow_mut().push((register, value));
        if register != 0x8b
            && let Some(revision) = self.takes
        {
            self.revision.set(revision);
        }
    }
}

#[test]
fn the_revision_after_a_load_is_what_the_cpu_says() {
    for (identity, register) in [(SKYLAKE, 0x79), (ROME, 0xc001_0020)] {
        let cpu = Model::new(&identity, Some(0x999));
        let found = Identity::of(&cpu).unwrap();
        assert_eq!((found.signature, found.revision), (identity.signature, identity.revision));
        assert_eq!(found.platform, identity.platform);
        assert_eq!(load(&cpu, found.vendor, 0x1000), 0x999);
        assert_eq!(cpu.loads(), [(register, 0x1000)]);
        let deaf = Model::new(&identity, None);
        assert_eq!(load(&deaf, found.vendor, 0x1000), identity.revision);
    }
    let hygon = Model { name: b"HygonGenuine", ..Model::new(&ROME, None) };
    assert_eq!(Identity::of(&hygon).map(|cpu| cpu.signature), None);
}

#[test]
fn other_cpus_follow_the_first() {
    for cpu in [SKYLAKE, ROME] {
        let first = Identity { revision: cpu.revision + 8, ..cpu };
        let follow = |model: &Model| follow(model, &first, 0x2000);
        let behind = Model::new(&cpu, Some(first.revision));
        assert_eq!((follow(&behind), behind.loads().len()), (Ok(()), 1));
        // A second thread of a core that was updated before.
        let thread = Model::new(&first, Some(first.revision));
        let loads = usize::from(cpu.vendor == Vendor::Amd);
        assert_eq!((follow(&thread), thread.loads().len()), (Ok(()), loads));
        let ahead = Identity { revision: first.revision + 1, ..cpu };
        let ahead = Model::new(&ahead, Some(first.revision));
        assert_eq!((follow(&ahead), ahead.loads().len()), (Ok(()), 0));
        let deaf = Model::new(&cpu, None);
        assert_eq!(follow(&deaf), Err(Behind::NotTaken(cpu.revision)));
        let other = Model { signature: 0x1234, ..Model::new(&cpu, Some(first.revision)) };
        assert_eq!((follow(&other), other.loads().len()), (Err(Behind::OtherCpu), 0));
    }
}
