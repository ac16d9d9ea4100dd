//! Words: values that depend on where the guest's pages and frames lie.

/// Pages that programs work on.
pub const PAGES: u8 = 16;

/// What a page is at the start of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Mapped writable; where the program asks for tables, the table of level so much.
    Table(u8),
    /// Mapped writable; meant for descriptors.
    Descriptors,
    /// Mapped writable.
    Data,
    /// Mapped for reading only.
    ReadOnly,
    /// Its frame is there and not mapped.
    Unmapped,
}

impl Role {
    /// What page `index` is.
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
    /// That of a page.
    Page(u8),
    /// The page shared with the monitor.
    Shared,
    /// Start info.
    StartInfo,
    /// The console ring.
    Console,
    /// The store ring.
    Store,
    /// The first frame of the grant table, and so many after it (its instance lies around it).
    Grants(i8),
    /// The kernel's own table of level so much.
    Table(u8),
    /// One that is not the guest's, out of all that there are.
    Foreign(u32),
    /// This one.
    At(u64),
    /// So many after the machine's last.
    Past(u8),
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of a page.
    Page(u8),
    /// Of the page shared with the monitor.
    Shared,
    /// Of the mapped frame of the grant table.
    Grants,
    /// Of a stack of this virtual CPU that holds the frame of a fault, whatever programs do to
    /// their pages.
    Stack,
    /// This address.
    At(u64),
}

/// A value that the guest works out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// As it is.
    Number(u64),
    /// The number of a frame.
    FrameNumber(Frame),
    /// The address of a frame with these bits added by *exclusive or*: an entry, or the place of
    /// one.
    Entry(Frame, u64),
    /// The place of the entry that maps a page in the kernel's own level-1 table, with these bits.
    EntryOf(u8, u64),
    /// An address, so many bytes on.
    Address(Place, i32),
    /// The address of this byte of the step's own memory.
    Memory(u16),
    /// The address of the list of a batch.
    Batch,
    /// System time, so many nanoseconds on.
    Time(i64),
    /// The guest's own partition number, shifted left by so much, with these bits.
    Own(u8, u64),
}

impl Default for Word {
    fn default() -> Self {
        Self::Number(0)
    }
}
