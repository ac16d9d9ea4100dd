//! The boot partition: holds the images of the system partitions and builds partitions.
#![cfg_attr(target_os = "none", no_std, no_main)]

use partition_runtime::{StartBlock, entry, log};

entry!(run);

fn run(start: &'static StartBlock) -> ! {
    log!("start {}", start.restarts);
    partition_runtime::hypercall::shutdown(partition_runtime::hypercall::Shutdown::Crash)
}
