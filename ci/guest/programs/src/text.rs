//! Shows programs as text, for a report.

use crate::{Batch, CODES, Message, Program, Requests, STORES, Skew, Step, Transaction, Word};
use core::fmt;

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => write!(f, "{value:#x}"),
            Self::FrameNumber(frame) => write!(f, "frame {frame:?}"),
            Self::Entry(frame, bits) => write!(f, "entry {frame:?} ^ {bits:#x}"),
            Self::EntryOf(page, bits) => write!(f, "place of entry of page {page} ^ {bits:#x}"),
            Self::Address(place, offset) => write!(f, "{place:?} + {offset}"),
            Self::Memory(offset) => write!(f, "memory + {offset}"),
            Self::Batch => f.write_str("the list"),
            Self::Time(after) => write!(f, "now + {after}"),
            Self::Own(shift, bits) => write!(f, "own number << {shift} ^ {bits:#x}"),
        }
    }
}

fn words(f: &mut fmt::Formatter<'_>, words: &[Word]) -> fmt::Result {
    for (index, word) in words.iter().enumerate() {
        write!(f, "{}{word}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables => f.write_str("make and pin tables in pages 0 to 3"),
            Self::Call { number, args, memory } => {
                write!(f, "call {number}(")?;
                words(f, args)?;
                f.write_str(")")?;
                if !memory.is_empty() {
                    f.write_str(" memory: ")?;
                    words(f, memory)?;
                }
                Ok(())
            }
            Self::Code { code, user, registers } => {
                let name = CODES.get(usize::from(*code)).map_or("?", |code| code.0);
                write!(f, "{} mode: {name} with ", if *user { "user" } else { "kernel" })?;
                words(f, registers)
            }
            Self::Store { how, address, value } => {
                let name = STORES.get(usize::from(*how)).map_or("?", |store| store.0);
                write!(f, "{name} {value} at {address}")
            }
            Self::Grant { index, entry } => write!(f, "grant {index} = {entry}"),
            Self::Iret(frame) => {
                f.write_str("iret by frame ")?;
                words(f, frame)
            }
            Self::Requests(requests) => write!(f, "{requests}"),
            Self::Batch(Batch { number, args, memory, pattern }) => {
                write!(f, "call {number}(")?;
                words(f, args)?;
                f.write_str(") memory: ")?;
                words(f, memory)?;
                f.write_str(" list: ")?;
                words(f, pattern)?;
                f.write_str(", again and again")
            }
        }
    }
}

/// Shows bytes as text, shortened if they are many.
fn text(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const SHOWN: usize = 48;
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    write!(f, "\"{}\"", shown.escape_ascii())?;
    if shown.len() < bytes.len() { write!(f, "… of {} bytes", bytes.len()) } else { Ok(()) }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, times, read, skew } = self;
        write!(f, "store, {times} times:")?;
        for Message { kind, id: _, transaction, length, payload, cut } in messages {
            write!(f, " kind {kind} ")?;
            match transaction {
                Transaction::Number(0) => {}
                other => write!(f, "in {other:?} ")?,
            }
            text(f, payload)?;
            if *length as usize != payload.len() {
                write!(f, " as {length} bytes")?;
            }
            if *cut != 0 {
                write!(f, " without {cut}")?;
            }
            f.write_str(";")?;
        }
        if *skew != Skew::None {
            write!(f, " {skew:?};")?;
        }
        f.write_str(if *read { " replies read" } else { " replies left" })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (slot, step) in self.slots() {
            writeln!(f, "  {slot}: {step}")?;
        }
        Ok(())
    }
}
