//! Decides which physical CPUs a partition may use: its requested CPUs without those dedicated to
//! others.
//!
//! Rule: a change of an affinity or a dedication settles all partitions at once, and leaves no
//! partition without a CPU.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::command::{Code, Refusal};
use pv_abi::uv::database::{PartitionDescriptor, state};

use crate::operations::invalid;
use crate::plan::Plan;
use crate::refusal::{label, refusal};

/// One bit for each physical CPU.
pub(crate) type Mask = [u64; 4];

/// The mask for a list of CPUs; an empty list stands for all CPUs.
pub(crate) fn mask(object: &str, wanted: &[u32], cpus: u32) -> Result<Mask, Refusal> {
    if wanted.is_empty() {
        return Ok(all(cpus));
    }
    let mut mask = [0u64; 4];
    for &cpu in wanted {
        let word = mask.get_mut(cpu as usize / 64).filter(|_| cpu < cpus);
        let Some(word) = word else {
            let limit = format!("0 to {}", cpus.saturating_sub(1));
            return Err(invalid(object, "cpu_affinity", cpu, &limit));
        };
        *word |= 1 << (cpu % 64);
    }
    Ok(mask)
}

/// The mask of the first `cpus` CPUs.
pub(crate) fn all(cpus: u32) -> Mask {
    let mut mask = [0u64; 4];
    for cpu in 0..cpus.min(256) {
        if let Some(word) = mask.get_mut(cpu as usize / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    mask
}

/// The CPUs in a mask; the mask of [`all`] becomes an empty list, as in a request.
pub(crate) fn list(mask: &Mask, cpus: u32) -> Vec<u32> {
    if *mask == all(cpus) { Vec::new() } else { bits(mask).collect() }
}

fn bits(mask: &Mask) -> impl Iterator<Item = u32> + '_ {
    (0..256)
        .filter(|cpu| mask.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0))
        .filter_map(|cpu| u32::try_from(cpu).ok())
}

/// A mask as text, for example `0, 2 to 5`.
pub(crate) fn words(mask: &Mask) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cpu in bits(mask) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let word = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    if runs.is_empty() {
        "none".to_string()
    } else {
        runs.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

fn and(a: &Mask, b: &Mask) -> Mask {
    core::array::from_fn(|i| a.get(i).unwrap_or(&0) & b.get(i).unwrap_or(&0))
}

fn without(a: &Mask, b: &Mask) -> Mask {
    core::array::from_fn(|i| a.get(i).unwrap_or(&0) & !b.get(i).unwrap_or(&0))
}

fn or(a: &Mask, b: &Mask) -> Mask {
    core::array::from_fn(|i| a.get(i).unwrap_or(&0) | b.get(i).unwrap_or(&0))
}

/// Plans the CPUs that each partition may use now. A refusal names `object`.
///
/// # Errors
/// Two partitions would have the same dedicated CPU, or a partition would have none.
pub(crate) fn settle(plan: &mut Plan, object: &str) -> Result<(), Refusal> {
    let lives =
        |d: &PartitionDescriptor| d.vcpus > 0 && d.instance_frames > 0 && d.state != state::DYING;
    let all: Vec<Box<PartitionDescriptor>> = plan.partitions().filter(|d| lives(d)).collect();
    let mut taken = [0; 4];
    for keeper in all.iter().filter(|d| d.cpu_dedicated != 0) {
        let both = and(&taken, &keeper.cpu_affinity);
        if both != [0; 4] {
            return Err(refusal(
                Code::CpuTaken,
                object,
                "cpu_dedicated",
                format!("CPU {} would be dedicated to two partitions", words(&both)),
                "dedicate CPUs that are dedicated to nobody else",
            ));
        }
        taken = or(&taken, &keeper.cpu_affinity);
    }
    for mut partition in all {
        let own = if partition.cpu_dedicated != 0 { partition.cpu_affinity } else { [0; 4] };
        let others = without(&taken, &own);
        let allowed = without(&partition.cpu_affinity, &others);
        if allowed == [0; 4] && partition.cpu_affinity != [0; 4] {
            return Err(no_cpu(object, &partition, &others));
        }
        if allowed != partition.cpu_allowed {
            partition.cpu_allowed = allowed;
            let number = partition.number;
            plan.set_descriptor(partition);
            plan.activate(number);
        }
    }
    Ok(())
}

fn no_cpu(object: &str, partition: &PartitionDescriptor, others: &Mask) -> Refusal {
    let (wants, gone) = (words(&partition.cpu_affinity), words(others));
    refusal(
        Code::NoCpu,
        object,
        "cpu_dedicated",
        format!(
            "{} would have no CPU: it may use {wants}, and {gone} would be dedicated to other partitions",
            label(partition)
        ),
        "dedicate fewer CPUs, or give that partition others",
    )
}
