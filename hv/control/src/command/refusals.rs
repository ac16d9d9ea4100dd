//! Refusals: each names object, field, reason and a way out.

use alloc::string::String;
use core::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Declares [`Code`] with one row for each code.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal,)*) => {
        /// The kind of a refusal or failure, for programs. On the wire and in JSON it is its word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        impl Code {
            /// All codes, by their words.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// The word, which does not change from version to version.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$code => $word,)*
                }
            }
        }
    };
}

codes! {
    /// Something still uses or refers to the object, or the request is still under way.
    Busy = "busy",
    /// The guest has not read what was typed before.
    ConsoleBusy = "console-busy",
    /// The console ended before the guest had read the input.
    ConsoleEnded = "console-ended",
    /// `uvd` went away, or sent no answer.
    Conversation = "conversation",
    /// Another partition has a CPU for itself.
    CpuTaken = "cpu-taken",
    /// The partition is created by the same transaction.
    CreatedHere = "created-here",
    /// The database contradicts itself.
    DatabaseDamaged = "database-damaged",
    /// The PCI function cannot be given to a partition.
    DeviceRefused = "device-refused",
    /// Another partition has the PCI function.
    DeviceTaken = "device-taken",
    /// Another disk has some of the sectors.
    DiskOverlaps = "disk-overlaps",
    /// The transaction has no operations.
    Empty = "empty",
    /// The reason has no code of its own.
    Failed = "failed",
    /// The guest did not read all of the input.
    InputUnread = "input-unread",
    /// A definition is wrong.
    InvalidDefinition = "invalid-definition",
    /// A given file is wrong.
    InvalidInput = "invalid-input",
    /// A value is outside of the limits of its field.
    InvalidValue = "invalid-value",
    /// The CPU has a leak with which no guest may start.
    Meltdown = "meltdown",
    /// The monitor refused an action.
    MonitorRefused = "monitor-refused",
    /// The object has changed since.
    MovedOn = "moved-on",
    /// Another partition has the name.
    NameTaken = "name-taken",
    /// The range of memory is in use for another purpose.
    Named = "named",
    /// The field does not change while the partition is there.
    NeedsRestart = "needs-restart",
    /// The database has no room.
    NoArena = "no-arena",
    /// The boot partition cannot be reached.
    NoBuildChannel = "no-build-channel",
    /// There is no such channel, or no command channel.
    NoChannel = "no-channel",
    /// The partition has no console.
    NoConsole = "no-console",
    /// No CPU would be left, or there is no such CPU.
    NoCpu = "no-cpu",
    /// No I/O partition has the PCI function, or none can serve the disk as requested.
    NoDriver = "no-driver",
    /// The endpoint table is full.
    NoEndpoint = "no-endpoint",
    /// The RAM disk cannot be read.
    NoInitrd = "no-initrd",
    /// The kernel cannot be read or started.
    NoKernel = "no-kernel",
    /// Not enough memory is free.
    NoMemory = "no-memory",
    /// The partition has no start state.
    NoStartState = "no-start-state",
    /// The machine has no such PCI function.
    NoSuchDevice = "no-such-device",
    /// The partition has no such disk.
    NoSuchDisk = "no-such-disk",
    /// There is no such partition.
    NoSuchPartition = "no-such-partition",
    /// The log has no such record.
    NoSuchRecord = "no-such-record",
    /// Not enough virtual CPUs are free.
    NoVcpus = "no-vcpus",
    /// The client does not have the right to do this.
    NotAllowed = "not-allowed",
    /// The client is not attached to the console.
    NotAttached = "not-attached",
    /// The partition has no definition.
    NotDefined = "not-defined",
    /// The partition is not the owner.
    NotOwner = "not-owner",
    /// The request is not pending.
    NotPending = "not-pending",
    /// A message does not belong to this protocol.
    NotUnderstood = "not-understood",
    /// The record cannot be undone.
    NotUndoable = "not-undoable",
    /// Another partition has the number.
    NumberTaken = "number-taken",
    /// A code that this version does not know.
    Other = "other",
    /// A value is outside of the existing range.
    OutOfRange = "out-of-range",
    /// The partition is the client's own.
    OwnPartition = "own-partition",
    /// The object belongs to a pending transaction.
    Pending = "pending",
    /// The client speaks another protocol.
    Protocol = "protocol",
    /// `uvd` ends.
    ShuttingDown = "shutting-down",
    /// The database has changed since the plan.
    StalePlan = "stale-plan",
    /// The partition is the host's own.
    SystemPartition = "system-partition",
    /// The terminal, or another file of the client, failed.
    Terminal = "terminal",
    /// The awaited event did not come within the client's time limit.
    TimeIsUp = "time-is-up",
    /// No answer came within the time limit.
    TimedOut = "timed-out",
    /// The request or answer has more parts or bytes than allowed.
    TooLarge = "too-large",
    /// The client has too many pending transactions.
    TooManyPending = "too-many-pending",
    /// The memory would have too many ranges.
    TooManyRanges = "too-many-ranges",
    /// The socket of `uvd` cannot be reached.
    Unreachable = "unreachable",
    /// The command line is wrong.
    Usage = "usage",
    /// The other side is of another version.
    Version = "version",
    /// The piece of a file is not the requested one.
    WrongPiece = "wrong-piece",
    /// The operation is not possible in the partition's state.
    WrongState = "wrong-state",
}

impl Code {
    /// The code with this word; [`Code::Other`] if there is none.
    #[must_use]
    pub fn of_word(word: &str) -> Self {
        Self::ALL.iter().copied().find(|code| code.word() == word).unwrap_or(Self::Other)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = Code;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the word of a code")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Code, E> {
                Ok(Code::of_word(word))
            }
        }

        deserializer.deserialize_str(Word)
    }
}

/// The reason why a request was not carried out. It is shown as one sentence: `object: field:
/// reason; way out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its kind, for programs.
    pub code: Code,
    /// The operation of the transaction (from 0) that caused it, if one did.
    pub operation: Option<u32>,
    /// The object: `partition "web"`, `memory`, …
    pub object: String,
    /// The field or quantity.
    pub field: String,
    /// The requested value and the limit.
    pub reason: String,
    /// The way out: an action that would work.
    pub way_out: String,
}

/// Maximum number of bytes of each text of a refusal: whatever a client's names are, its refusal
/// fits a frame of a channel, and a message of `uvd` with every character escaped.
pub const MAX_REFUSAL_TEXT: usize = 1000;

impl Refusal {
    /// The refusal with each text cut to [`MAX_REFUSAL_TEXT`] bytes; a cut text ends with an
    /// ellipsis.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        const ELLIPSIS: &str = "…";
        for text in [&mut self.object, &mut self.field, &mut self.reason, &mut self.way_out] {
            if text.len() > MAX_REFUSAL_TEXT {
                text.truncate(text.floor_char_boundary(MAX_REFUSAL_TEXT - ELLIPSIS.len()));
                text.push_str(ELLIPSIS);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    /// The words are those of the schema that programs read (`docs/src/uvtool.schema.json`), which
    /// lists them alike.
    #[test]
    fn a_code_is_its_word_on_the_wire_and_in_json_and_in_the_schema() {
        const SCHEMA: &str = include_str!("../../../../docs/src/uvtool.schema.json");
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let words: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(schema["$defs"]["code"]["enum"], serde_json::json!(words));
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, alloc::format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
            let bytes = postcard::to_allocvec(code).unwrap();
            assert_eq!(bytes, postcard::to_allocvec(&code.to_string()).unwrap());
            assert_eq!(postcard::from_bytes::<Code>(&bytes).unwrap(), *code);
        }
    }

    #[test]
    fn a_word_of_another_version_is_read_and_the_refusal_with_it() {
        assert_eq!(serde_json::from_str::<Code>("\"out-of-luck\"").unwrap(), Code::Other);
        let bytes = postcard::to_allocvec("out-of-luck").unwrap();
        assert_eq!(postcard::from_bytes::<Code>(&bytes).unwrap(), Code::Other);
    }
}
