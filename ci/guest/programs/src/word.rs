//! Words are values that depend on where the guest's pages and frames lie.

/// The pages for programs.
pub const PAGES: u8 = 16;

/// The role of a page at the start of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Mapped writable; if the program makes tables, this is the table of this level.
    Table(u8),
    /// Mapped writable; meant for descriptors.
    Descriptors,
    /// Mapped writable.
    Data,
    /// Mapped for reading only.
    ReadOnly,
    /// The frame exists and is not mapped.
    Unmapped,
}

impl Role {
    /// The role of page `index`.
    #[must_use]
    pub const fn of(index: u8) -> Self {
        match index {
            0 => Self::Table(1),
            1 => Self::Table(2),
            2 => Self::Table(3),
            3 => Self::Table(4),
            4 => Self::Descriptors,
            8 => Self::ReadOnly,
            11 | 15 => Self::Unmapped,
            _ => Self::Data,
        }
    }
}

/// A machine frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The frame of a page.
    Page(u8),
    /// The page that is shared with the monitor.
    Shared,
    /// Start info.
    StartInfo,
    /// The console ring.
    Console,
    /// The store ring.
    Store,
    /// The frame this far from the first frame of the grant table (the partition's instance lies
    /// around it).
    Grants(i8),
    /// The kernel's own table of this level.
    Table(u8),
    /// A frame that is not the guest's, chosen among all of the machine.
    Foreign(u32),
    /// The frame with this number.
    At(u64),
    /// The frame this far after the machine's last.
    Past(u8),
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a page.
    Page(u8),
    /// In the page that is shared with the monitor.
    Shared,
    /// In the mapped frame of the grant table.
    Grants,
    /// In a stack of this virtual CPU that can hold the frame of a fault, whatever programs do to
    /// their pages.
    Stack,
    /// This address.
    At(u64),
}

/// A value that the guest computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The number itself.
    Number(u64),
    /// The number of a frame.
    FrameNumber(Frame),
    /// The address of a frame, xor these bits: an entry, or the location of one.
    Entry(Frame, u64),
    /// The location of the entry that maps a page in the kernel's own level-1 table, with these
    /// bits.
    EntryOf(u8, u64),
    /// An address, plus this many bytes.
    Address(Place, i32),
    /// The address of this byte of the step's own memory.
    Memory(u16),
    /// The address of the area in which the guest maps a batch's list of requests.
    Batch,
    /// System time, plus this many nanoseconds.
    Time(i64),
    /// The guest's own partition number, shifted left by this much, with these bits.
    Own(u8, u64),
}

impl Default for Word {
    fn default() -> Self {
        Self::Number(0)
    }
}
