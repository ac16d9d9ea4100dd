//! Channels between a partition and its server.
//!
//! Rule: the shared frames are the partition's own. The other end is the ultravisor or, if the
//! command partition serves the guests, the command partition.

use alloc::format;
use alloc::string::ToString;

use control::command::{Code, Outcome, Range, Refusal, Target};
use pv_abi::uv::channel::{FIRST_CLIENT_PORT, SERVER_PORTS};
use pv_abi::uv::database::{
    BOOT, COMMAND, ChannelEntry, PartitionDescriptor, ULTRAVISOR, channel_kind, kind, state,
};
use zerocopy::FromZeros;

use crate::Action;
use crate::operations::{Caller, check_owned, in_state, invalid, modifiable, within};
use crate::plan::Plan;
use crate::refusal::{label, refusal};

/// The parameters of a requested channel.
pub(crate) struct Wanted {
    /// The partition whose frames are shared.
    pub(crate) partition: Target,
    /// The partition at the other end.
    pub(crate) peer: u32,
    /// See [`channel_kind`].
    pub(crate) kind: u32,
    /// The frames.
    pub(crate) share: Range,
    /// The first grant reference.
    pub(crate) grant: u32,
}

/// Plans a channel.
pub(crate) fn create(plan: &mut Plan, caller: Caller, wanted: &Wanted) -> Result<Outcome, Refusal> {
    let Wanted { partition, peer, kind, share, grant } = *wanted;
    // The pages are the boot partition's own; kernels pass through them.
    let build = kind == channel_kind::BUILD;
    let own = build && caller.number == BOOT && plan.number(partition)? == BOOT;
    let mut target = if own { plan.target(partition)? } else { modifiable(plan, partition)? };
    in_state(&target, &[state::BUILDING, state::RUNNING, state::PAUSED], "a channel")?;
    let object = format!("channel of {}", label(&target));
    check_ends(plan, &object, &target, kind, peer)?;
    let most = match kind {
        channel_kind::COMMAND | channel_kind::IO => 64,
        channel_kind::BUILD => 512,
        _ => 1,
    };
    let frames = u32::try_from(share.frames).unwrap_or(u32::MAX);
    within(&object, "frames", frames, 1, most)?;
    let references = target.grant_frames.saturating_mul(512);
    within(&object, "grant", grant, 0, references.saturating_sub(frames))?;
    check_owned(plan, &target, share)?;
    let index = plan.free_channel().ok_or_else(|| full(&object, plan.channel_entries()))?;
    let port = free_port(plan, &target, index);
    match kind {
        channel_kind::CONSOLE => {
            (target.console_frame, target.console_port) = (share.first, port);
        }
        channel_kind::STORE => (target.store_frame, target.store_port) = (share.first, port),
        _ => {}
    }
    let mut entry = ChannelEntry::new_zeroed();
    (entry.kind, entry.frames, entry.frame) = (kind, frames, share.first);
    (entry.a, entry.port_a, entry.grant_a) = (target.number, port, grant);
    (entry.b, entry.port_b) = (peer, if peer == ULTRAVISOR { SERVER_PORTS + index } else { 0 });
    plan.set_channel(index, entry);
    if matches!(kind, channel_kind::CONSOLE | channel_kind::STORE) {
        plan.set_descriptor(target);
    }
    plan.actions.push(Action::Channel(index));
    Ok(Outcome::Channel { index, port })
}

/// Checks that a channel of this kind is allowed between these two partitions.
fn check_ends(
    plan: &Plan,
    object: &str,
    target: &PartitionDescriptor,
    kind: u32,
    peer: u32,
) -> Result<(), Refusal> {
    within(object, "kind", kind, channel_kind::COMMAND, channel_kind::IO)?;
    if kind == channel_kind::BUILD && target.number != BOOT {
        let limit = "a build channel of the boot partition, requested by that partition";
        return Err(invalid(object, "kind", "a build channel", limit));
    }
    if kind == channel_kind::IO && target.kind != kind::IO {
        return Err(invalid(
            object,
            "kind",
            "an I/O channel",
            "an I/O channel of an I/O partition",
        ));
    }
    let allowed: &[u32] = match kind {
        channel_kind::CONSOLE => &[ULTRAVISOR, COMMAND],
        channel_kind::BUILD => &[COMMAND],
        _ => &[ULTRAVISOR],
    };
    let there = plan.descriptor(peer).is_some_and(|peer| peer.state != state::DYING);
    if allowed.contains(&peer) && there && peer != target.number {
        return Ok(());
    }
    let of: alloc::vec::Vec<_> = allowed.iter().map(ToString::to_string).collect();
    let limit = format!("{}, if it exists and is not the partition itself", of.join(" or "));
    Err(invalid(object, "peer", peer, &limit))
}

fn full(object: &str, entries: u32) -> Refusal {
    refusal(
        Code::NoChannel,
        object,
        "channel table",
        format!("all {entries} entries are in use"),
        "destroy a partition that has channels",
    )
}

/// Chooses a port at the client's end. Before the partition runs, this is the lowest free port from
/// [`FIRST_CLIENT_PORT`] upward. Afterwards its kernel allocates the low ports, so the channel gets a port that the
/// kernel has not reached.
fn free_port(plan: &Plan, target: &PartitionDescriptor, index: u32) -> u32 {
    if target.state != state::BUILDING {
        return SERVER_PORTS + index;
    }
    let channels = plan.channels_of(target.number);
    let used = |port: &u32| channels.iter().any(|(_, c)| c.a == target.number && c.port_a == *port);
    (FIRST_CLIENT_PORT..SERVER_PORTS).find(|port| !used(port)).unwrap_or(SERVER_PORTS + index)
}
