//! Port tables of three partitions against a model of connections.
#![cfg(not(loom))]

use events::{Delivery, EventBits, PortCell, PortTable, PortUse, bind_interdomain, bind_pair};
use proptest::prelude::*;
use pv_abi::xen::events as abi;
use refusal::{Refused, errno};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64};

const PORTS: u32 = 8;
const VCPUS: u32 = 2;

/// The service whose members are partitions 1 and 2.
const SERVICE: u32 = 3;

/// The numbers for which a partition may connect.
fn numbers(partition: u32) -> [u32; 2] {
    [partition, if partition == 0 { partition } else { SERVICE }]
}

/// The memory of one partition.
struct Memory {
    cells: Vec<PortCell>,
    virqs: Vec<AtomicU32>,
    pending: Vec<AtomicU64>,
    mask: Vec<AtomicU64>,
}

impl Memory {
    fn new() -> Self {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            cells: (0..PORTS).map(|_| PortCell::default()).collect(),
            virqs: (0..VCPUS * abi::NR_VIRQS).map(|_| AtomicU32::new(0)).collect(),
            pending: words(64),
            mask: words(64),
        }
    }

    fn table(&self) -> PortTable<'_> {
        PortTable::new(&self.cells, &self.virqs, VCPUS)
    }

    fn bits(&self) -> EventBits<'_> {
        EventBits { pending: &self.pending, mask: &self.mask }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Unbound { by: u32, remote: u32 },
    Connect { by: u32, remote: u32, port: u32 },
    Pair { a: u32, port_a: u32, b: u32, port_b: u32 },
    Virq { by: u32, virq: u32, vcpu: u32 },
    Ipi { by: u32, vcpu: u32 },
    Move { by: u32, port: u32, vcpu: u32 },
    Close { by: u32, port: u32 },
    Send { by: u32, port: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let (by, port, vcpu) = (0u32..3, 0..PORTS + 1, 0..VCPUS + 1);
    prop_oneof![
        (by.clone(), 0..=SERVICE).prop_map(|(by, remote)| Step::Unbound { by, remote }),
        (by.clone(), by.clone(), port.clone()).prop_map(|(by, remote, port)| Step::Connect {
            by,
            remote,
            port
        }),
        (by.clone(), port.clone(), by.clone(), port.clone())
            .prop_map(|(a, port_a, b, port_b)| { Step::Pair { a, port_a, b, port_b } }),
        (by.clone(), prop_oneof![0u32..4, 20u32..26], vcpu.clone())
            .prop_map(|(by, virq, vcpu)| Step::Virq { by, virq, vcpu }),
        (by.clone(), vcpu.clone()).prop_map(|(by, vcpu)| Step::Ipi { by, vcpu }),
        (by.clone(), port.clone(), vcpu).prop_map(|(by, port, vcpu)| Step::Move { by, port, vcpu }),
        (by.clone(), port.clone()).prop_map(|(by, port)| Step::Close { by, port }),
        (by, port).prop_map(|(by, port)| Step::Send { by, port }),
    ]
}

/// The expected ports: use and virtual CPU, by partition and port.
#[derive(Default)]
struct Model(BTreeMap<(u32, u32), (PortUse, u8)>);

impl Model {
    fn lowest_free(&self, by: u32) -> Result<u32, Refused> {
        (1..PORTS).find(|p| !self.0.contains_key(&(by, *p))).ok_or(errno::ENOSPC)
    }

    fn add(&mut self, by: u32, used_for: PortUse, vcpu: u8) -> Result<u32, Refused> {
        let port = self.lowest_free(by)?;
        self.0.insert((by, port), (used_for, vcpu));
        Ok(port)
    }

    fn used(&self, by: u32, port: u32) -> Result<(PortUse, u8), Refused> {
        self.0.get(&(by, port)).copied().ok_or(errno::EINVAL)
    }

    fn connect(&mut self, by: u32, remote: u32, remote_port: u32) -> Result<u32, Refused> {
        let (used_for, vcpu) = self.used(remote, remote_port)?;
        let PortUse::Unbound { remote: peer } = used_for else {
            return Err(errno::EINVAL);
        };
        if !numbers(by).contains(&peer) {
            return Err(errno::EINVAL);
        }
        let ours = PortUse::Interdomain { remote, port: remote_port, peer: remote };
        let port = self.add(by, ours, 0)?;
        let back = PortUse::Interdomain { remote: by, port, peer };
        self.0.insert((remote, remote_port), (back, vcpu));
        Ok(port)
    }

    fn pair(&mut self, a: u32, port_a: u32, b: u32, port_b: u32) -> Result<(), Refused> {
        let valid = 1..PORTS;
        if !valid.contains(&port_a) || !valid.contains(&port_b) {
            return Err(errno::EINVAL);
        }
        let ends = [(a, port_a, b, port_b), (b, port_b, a, port_a)];
        let mut vcpus = [0; 2];
        for (end, vcpu) in ends.iter().zip(&mut vcpus) {
            let (by, port, remote, remote_port) = *end;
            let Ok((used_for, at)) = self.used(by, port) else {
                continue;
            };
            *vcpu = at;
            let joined = PortUse::Interdomain { remote, port: remote_port, peer: remote };
            if used_for != joined && used_for != (PortUse::Unbound { remote }) {
                return Err(errno::EBUSY);
            }
        }
        for ((by, port, remote, remote_port), vcpu) in ends.into_iter().zip(vcpus) {
            let joined = PortUse::Interdomain { remote, port: remote_port, peer: remote };
            self.0.insert((by, port), (joined, vcpu));
        }
        Ok(())
    }

    fn virq(&mut self, by: u32, virq: u32, vcpu: u32) -> Result<u32, Refused> {
        let per_vcpu = [abi::VIRQ_TIMER, abi::VIRQ_DEBUG].contains(&virq);
        if virq >= abi::NR_VIRQS || (!per_vcpu && vcpu != 0) {
            return Err(errno::EINVAL);
        }
        if vcpu >= VCPUS {
            return Err(errno::ENOENT);
        }
        let same = |(key, (used_for, at)): (&(u32, u32), &(PortUse, u8))| {
            let here = !per_vcpu || u32::from(*at) == vcpu;
            key.0 == by && *used_for == (PortUse::Virq { virq }) && here
        };
        if self.0.iter().any(same) {
            return Err(errno::EEXIST);
        }
        self.add(by, PortUse::Virq { virq }, vcpu as u8)
    }

    fn rebind(&mut self, by: u32, port: u32, vcpu: u32) -> Result<(), Refused> {
        if vcpu >= VCPUS {
            return Err(errno::ENOENT);
        }
        let (used_for, _) = self.used(by, port)?;
        match used_for {
            PortUse::Ipi | PortUse::Virq { virq: 0 | 1 } => return Err(errno::EINVAL),
            _ => self.0.insert((by, port), (used_for, vcpu as u8)),
        };
        Ok(())
    }

    fn close(&mut self, by: u32, port: u32) -> Result<(), Refused> {
        let (used_for, _) = self.0.remove(&(by, port)).ok_or(errno::EINVAL)?;
        if let PortUse::Interdomain { remote, port: other, .. } = used_for
            && let Some(end) = self.0.get_mut(&(remote, other))
            && let PortUse::Interdomain { remote, port: back, peer } = end.0
            && (remote, back) == (by, port)
        {
            end.0 = PortUse::Unbound { remote: peer };
        }
        Ok(())
    }

    fn send(&self, by: u32, port: u32) -> Result<Delivery, Refused> {
        let (used_for, vcpu) = self.used(by, port)?;
        match used_for {
            PortUse::Interdomain { remote, port, .. } => {
                Ok(Delivery::Remote { partition: remote, port })
            }
            PortUse::Ipi => Ok(Delivery::Local { vcpu }),
            PortUse::Unbound { .. } => Ok(Delivery::Dropped),
            _ => Err(errno::EINVAL),
        }
    }
}

fn apply(step: Step, memory: &[Memory], model: &mut Model) -> Result<(), TestCaseError> {
    let table = |by: u32| memory[by as usize].table();
    match step {
        Step::Unbound { by, remote } => {
            let expected = model.add(by, PortUse::Unbound { remote }, 0);
            prop_assert_eq!(table(by).alloc_unbound(remote), expected);
        }
        Step::Connect { by, remote, port } => {
            let got = bind_interdomain((&table(by), numbers(by)), (&table(remote), remote), port);
            prop_assert_eq!(got, model.connect(by, remote, port));
        }
        Step::Pair { a, port_a, b, port_b } if (a, port_a) != (b, port_b) => {
            let got = bind_pair((&table(a), a, port_a), (&table(b), b, port_b));
            prop_assert_eq!(got, model.pair(a, port_a, b, port_b));
        }
        Step::Pair { .. } => {}
        Step::Virq { by, virq, vcpu } => {
            prop_assert_eq!(table(by).bind_virq(virq, vcpu), model.virq(by, virq, vcpu));
        }
        Step::Ipi { by, vcpu } => {
            let expected = match vcpu < VCPUS {
                true => model.add(by, PortUse::Ipi, vcpu as u8),
                false => Err(errno::ENOENT),
            };
            prop_assert_eq!(table(by).bind_ipi(vcpu), expected);
        }
        Step::Move { by, port, vcpu } => {
            prop_assert_eq!(table(by).bind_vcpu(port, vcpu), model.rebind(by, port, vcpu));
        }
        Step::Close { by, port } => {
            let got = table(by).close(port, &memory[by as usize].bits());
            if let Ok(PortUse::Interdomain { remote, port: other, .. }) = got {
                table(remote).disconnect(other, by, port);
            }
            prop_assert_eq!(got.map(|_| ()), model.close(by, port));
        }
        Step::Send { by, port } => {
            prop_assert_eq!(table(by).send(port), model.send(by, port));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn tables_agree_with_the_model(steps in prop::collection::vec(step(), 0..120)) {
        let memory = [Memory::new(), Memory::new(), Memory::new()];
        let mut model = Model::default();
        for step in steps {
            apply(step, &memory, &mut model)?;
            for (by, memory) in (0u32..).zip(&memory) {
                for port in 1..PORTS {
                    let port_now = memory.table().port(port).unwrap();
                    let expected = model.used(by, port).unwrap_or((PortUse::Free, 0));
                    prop_assert_eq!((port_now.used_for, port_now.vcpu), expected);
                    if let PortUse::Virq { virq } = expected.0 {
                        let owner = if virq < 2 { u32::from(expected.1) } else { 0 };
                        prop_assert_eq!(memory.table().virq(virq, owner), Some((port, expected.1)));
                    }
                }
            }
        }
    }
}

#[test]
fn closing_clears_what_is_pending() {
    let memory = Memory::new();
    let port = memory.table().bind_ipi(0).unwrap();
    memory.pending[0].store(1 << port, std::sync::atomic::Ordering::Relaxed);
    memory.table().close(port, &memory.bits()).unwrap();
    assert!(!memory.bits().is_pending(port));
    assert_eq!(memory.table().bind_ipi(1), Ok(port));
}

#[test]
fn a_port_is_told_to_wait_as_often_as_one_likes() {
    let memory = [Memory::new(), Memory::new()];
    let (a, b) = (memory[0].table(), memory[1].table());
    assert_eq!(a.set_unbound(5, 1), Ok(()));
    assert_eq!(a.set_unbound(5, 1), Ok(()));
    assert_eq!(a.set_unbound(5, 2), Err(errno::EBUSY));
    let port = bind_interdomain((&b, [1, 1]), (&a, 0), 5).unwrap();
    assert_eq!(a.set_unbound(5, 1), Ok(()));
    assert_eq!(a.send(5), Ok(Delivery::Remote { partition: 1, port }));
    assert_eq!(a.set_unbound(5, 2), Err(errno::EBUSY));
}

#[test]
fn a_port_survives_the_largest_values() {
    let memory = [Memory::new(), Memory::new()];
    let (a, b) = (memory[0].table(), memory[1].table());
    bind_pair((&a, 0xffff, 7), (&b, 0x7fff, 1)).unwrap();
    assert_eq!(a.send(7), Ok(Delivery::Remote { partition: 0x7fff, port: 1 }));
    assert_eq!(b.send(1), Ok(Delivery::Remote { partition: 0xffff, port: 7 }));
}

#[test]
fn a_late_disconnect_leaves_a_new_connection_alone() {
    let memory = [Memory::new(), Memory::new()];
    let (a, b) = (memory[0].table(), memory[1].table());
    bind_pair((&a, 0, 3), (&b, 1, 4)).unwrap();
    a.disconnect(3, 1, 5);
    a.disconnect(3, 2, 4);
    a.disconnect(99, 1, 4);
    assert_eq!(a.send(3), Ok(Delivery::Remote { partition: 1, port: 4 }));
    a.disconnect(3, 1, 4);
    assert_eq!(a.send(3), Ok(Delivery::Dropped));
}

#[test]
fn a_port_of_a_service_waits_for_the_next_member() {
    let memory = [Memory::new(), Memory::new(), Memory::new()];
    let [guest, a, b] = [0, 1, 2].map(|by: usize| memory[by].table());
    let port = guest.alloc_unbound(SERVICE).unwrap();
    // Neither a guest, nor a partition of which the service's number is not its own, connects.
    let stranger = bind_interdomain((&b, [2, 2]), (&guest, 0), port);
    assert_eq!(stranger, Err(errno::EINVAL));
    let first = bind_interdomain((&a, numbers(1)), (&guest, 0), port).unwrap();
    assert_eq!(guest.send(port), Ok(Delivery::Remote { partition: 1, port: first }));
    let used_for = PortUse::Interdomain { remote: 1, port: first, peer: SERVICE };
    assert_eq!(guest.port(port).unwrap().used_for, used_for);
    // The port is taken until the first member closes its end.
    let second = |port| bind_interdomain((&b, numbers(2)), (&guest, 0), port);
    assert_eq!(second(port), Err(errno::EINVAL));
    a.close(first, &memory[1].bits()).unwrap();
    guest.disconnect(port, 1, first);
    assert_eq!(guest.port(port).unwrap().used_for, PortUse::Unbound { remote: SERVICE });
    let next = second(port).unwrap();
    // The disconnection of the first member's end comes too late to matter.
    guest.disconnect(port, 1, first);
    assert_eq!(guest.send(port), Ok(Delivery::Remote { partition: 2, port: next }));
}

#[test]
fn a_port_of_a_member_alone_waits_for_that_member_again() {
    let memory = [Memory::new(), Memory::new(), Memory::new()];
    let [guest, a, b] = [0, 1, 2].map(|by: usize| memory[by].table());
    let port = guest.alloc_unbound(1).unwrap();
    assert_eq!(bind_interdomain((&b, numbers(2)), (&guest, 0), port), Err(errno::EINVAL));
    let end = bind_interdomain((&a, numbers(1)), (&guest, 0), port).unwrap();
    a.close(end, &memory[1].bits()).unwrap();
    guest.disconnect(port, 1, end);
    assert_eq!(guest.port(port).unwrap().used_for, PortUse::Unbound { remote: 1 });
}
