//! A client of the command channel and of the build channel that sends arbitrary messages, in place
//! of `uvd`.
//!
//! The flood also damages the rings, and reads answers only now and then. Rule: it leaves out
//! messages that would stop or starve the partition in which it runs ([`spares`]), as that
//! partition's own kernel may do.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use channels::ring::{self, Endpoint, RingError, Side};
use channels::{BUILD_PATH, COMMAND_PATH, EventPort, Shared};
use control::build;
use control::command::{Body, Operation, Request, Target};
use pv_abi::uv::channel::COMMAND_PAGES;
use pv_abi::uv::database::COMMAND;
use serde_json::{Value, json};
use wild_messages::Random;

/// Words of the ring pages, at the start of a channel.
const RING_WORDS: usize = COMMAND_PAGES * pv_abi::PAGE_SIZE / 4;
/// Words of the ring's header, at its start.
const HEADER_WORDS: u64 = 16;
/// How long a server may take to re-create a ring, or to read a full one, before it counts as
/// silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time between two looks at a ring.
const LOOK: Duration = Duration::from_millis(1);

struct Channel {
    shared: Shared,
    port: EventPort,
    messages: u64,
    answers: u64,
    remade: u64,
}

/// Sends this many messages over each of the two channels; returns the counts of answers, or why a
/// server is silent.
pub fn flood(messages: u64) -> Result<Value> {
    let mut command = Channel::find(COMMAND_PATH, COMMAND_PAGES)?;
    let mut build = Channel::find(BUILD_PATH, build::PAGES)?;
    let mut random = Random::new(0x6a09_e667_f3bc_c909);
    for number in 1..=messages {
        let message = random.command_message(number);
        if spares(&message) {
            command.say(&message, &mut random).context("command channel")?;
        }
        let message = random.build_message(number);
        build.say(&message, &mut random).context("build channel")?;
    }
    let told = |channel: &Channel| {
        let Channel { messages, answers, remade, .. } = channel;
        json!({ "messages": messages, "answers": answers, "rings_made_anew": remade })
    };
    Ok(json!({ "command": told(&command), "build": told(&build) }))
}

/// Whether a message leaves this partition as it is. A message that is not a valid request changes
/// nothing.
fn spares(message: &[u8]) -> bool {
    let Ok(request) = postcard::from_bytes::<Request>(message) else {
        return true;
    };
    match request.body {
        Body::Transaction(transaction) => {
            let mut targets = transaction.operations.iter().filter_map(Operation::target);
            targets.all(|target| target != Target::Number(COMMAND))
        }
        // The undone change may be this partition's.
        Body::Undo { .. } => false,
        _ => true,
    }
}

impl Channel {
    fn find(path: &str, pages: usize) -> Result<Self> {
        let (shared, port) = channels::find(path, pages).context(path.to_owned())?;
        Ok(Self { shared, port, messages: 0, answers: 0, remade: 0 })
    }

    /// Sends a message as soon as there is a ring with space; damages the ring now and then.
    fn say(&mut self, message: &[u8], random: &mut Random) -> Result<()> {
        let words = &self.shared.words()[..RING_WORDS];
        let looks = PATIENCE.as_millis() / LOOK.as_millis();
        let mut buffer = Vec::new();
        for look in 0..=looks {
            if look > 0 {
                self.port.ring();
                thread::sleep(LOOK);
            }
            let mut answers = 0;
            let sent = Endpoint::open(words, Side::Client).and_then(|mut ring| {
                let sent = match ring.send(message) {
                    Err(RingError::Full) => false,
                    other => other.map(|()| true)?,
                };
                if !sent || random.below(16) == 0 {
                    while ring.receive(&mut buffer)? {
                        answers += 1;
                    }
                }
                Ok(sent)
            });
            self.answers += answers;
            match sent {
                Ok(true) => {
                    self.port.ring();
                    self.messages += 1;
                    if random.below(100) == 0 {
                        let most = [HEADER_WORDS, words.len() as u64][random.below(2) as usize];
                        let at = random.below(most) as usize;
                        words[at].store(random.wild() as u32, Ordering::Relaxed);
                    }
                    return Ok(());
                }
                Ok(false) => {}
                // The server re-creates the ring.
                Err(RingError::NotReady) => {}
                Err(_) => {
                    ring::ask_anew(words);
                    self.remade += 1;
                }
            }
        }
        anyhow::bail!("the ring had no room, and was not reset, for {PATIENCE:?}")
    }
}
