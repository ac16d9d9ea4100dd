//! Writes the arena: header, descriptors, channel table, device table, endpoint table, log pages.
//!
//! There is one writer, the ultravisor partition, which `&mut self` expresses. [`Database::create`]
//! fixes the layout of the arena's pages:
//!
//! | pages | what |
//! |---|---|
//! | 0 | header |
//! | 1 to 8 | descriptors of the well-known partitions |
//! | 9 to 15 | unused |
//! | 16 to C-1 | descriptors of guests: an eighth of the arena, at least 16 |
//! | C to D-1 | channel table: two entries for each guest, and some for the host's own |
//! | D to E-1 | device table: an entry for each PCI function; no page if there is none |
//! | E to R-1 | endpoint table: as many entries as guests; no page if there is no PCI function |
//! | R | root of the page map |
//! | R+1 to L | log ring: an eighth of the arena, 4 to 1024 pages |
//! | from there | index pages of the page map, allocated upward and reused through a chain |
//!
//! Rule: the generation of a descriptor or table entry is odd while it is written, and a new
//! index page is filled before an entry names it.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU32;

use pv_abi::uv::database::{
    ARENA_MAGIC, ARENA_VERSION, CHANNELS_IN_PAGE, ChannelEntry, DESCRIPTOR_MAGIC, FIRST_GUEST,
    MAX_PARTITION, PartitionDescriptor, PartitionNumber, channel_kind,
};
use pv_abi::uv::devices::{DEVICES_IN_PAGE, DeviceEntry, MAX_FUNCTIONS};
use pv_abi::uv::endpoints::{ENDPOINTS_IN_PAGE, Endpoint};
use zerocopy::{FromZeros, IntoBytes};

use database_view::{DESCRIPTOR_BYTES, MAX_FRAMES, Owner, ReadError, is_descriptor_number};
use database_view::{PAGE_WORDS, Words};

use crate::Reader;
use crate::words::WriteWords;

/// Channels of each guest: its console and its store.
const GUEST_CHANNELS: u32 = 2;

/// Minimum number of pages of an arena.
pub const MIN_PAGES: u32 = 64;

/// Maximum number of pages of the log ring: a quarter of them has room for the pending transactions
/// of a thousand guests that are being built.
const MAX_LOG_PAGES: u32 = 1024;

/// Indices of the header's words.
pub(crate) mod header {
    /// Low and high half of the magic number.
    pub const MAGIC: usize = 0;
    /// Layout version.
    pub const VERSION: usize = 2;
    /// Number of pages of the arena.
    pub const PAGES: usize = 3;
    /// Low and high half of the version of the contents.
    pub const CONTENTS: usize = 4;
    /// Index of the root of the page map.
    pub const ROOT: usize = 6;
    /// First page of the log ring.
    pub const LOG_FIRST: usize = 7;
    /// Number of pages of the log ring.
    pub const LOG_PAGES: usize = 8;
    /// First index page that was never allocated.
    pub const FREE_FIRST: usize = 9;
    /// Low and high half of the frame count.
    pub const FRAMES: usize = 10;
    /// First page of the chain of freed index pages.
    pub const FREE_CHAIN: usize = 12;
    /// Length of that chain.
    pub const FREE_CHAINED: usize = 13;
    /// Low and high half of the boot's identity.
    pub const BOOT: usize = 14;
    /// First page of the channel table.
    pub const CHANNELS_FIRST: usize = 16;
    /// Number of pages of the channel table.
    pub const CHANNELS_PAGES: usize = 17;
    /// First page of the device table.
    pub const DEVICES_FIRST: usize = 18;
    /// Number of functions in the device table.
    pub const DEVICES: usize = 19;
    /// First page of the endpoint table.
    pub const ENDPOINTS_FIRST: usize = 20;
    /// Number of pages of the endpoint table.
    pub const ENDPOINTS_PAGES: usize = 21;
}

/// Why a change was refused. The arena is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The arena has fewer than [`MIN_PAGES`] pages, or the machine more frames than the page map
    /// can describe, or more than [`MAX_FUNCTIONS`] PCI functions.
    Size,
    /// The number, frame or index cannot exist.
    OutOfRange,
    /// The arena has too few free pages: it needs this many more.
    Full(u32),
    /// The arena contradicts its layout.
    Read(ReadError),
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The only writer of an arena.
#[derive(Debug)]
pub struct Database<'a> {
    pub(crate) words: Words<'a>,
}

impl<'a> Database<'a> {
    /// Makes an empty database: no partition, no channel, all `frames` frames are free RAM, and no
    /// partition has any of the `devices` PCI functions.
    ///
    /// # Errors
    /// [`WriteError::Size`].
    pub fn create(words: &'a [AtomicU32], frames: u64, devices: u32) -> Result<Self, WriteError> {
        let words = Words::new(words);
        let pages = words.pages();
        let sized = pages >= MIN_PAGES && devices as usize <= MAX_FUNCTIONS;
        if !sized || frames == 0 || frames > MAX_FRAMES {
            return Err(WriteError::Size);
        }
        let channels_first = (FIRST_GUEST + (pages / 8).max(16)).min(MAX_PARTITION);
        let guests = channels_first - FIRST_GUEST;
        let channels_pages = (guests * GUEST_CHANNELS).div_ceil(CHANNELS_IN_PAGE) + 1;
        let devices_first = channels_first + channels_pages;
        let endpoints_first = devices_first + devices.div_ceil(DEVICES_IN_PAGE);
        let endpoints_pages = if devices == 0 { 0 } else { guests.div_ceil(ENDPOINTS_IN_PAGE) };
        let root = endpoints_first + endpoints_pages;
        let log_pages = (pages / 8).clamp(4, MAX_LOG_PAGES);
        let database = Self { words };
        for page in 0..=root + log_pages {
            database.fill(page, 0)?;
        }
        let (log_first, free_first) = (root + 1, root + 1 + log_pages);
        database.set_header(header::PAGES, pages)?;
        database.set_header(header::ROOT, root)?;
        database.set_header(header::CHANNELS_FIRST, channels_first)?;
        database.set_header(header::CHANNELS_PAGES, channels_pages)?;
        database.set_header(header::DEVICES_FIRST, devices_first)?;
        database.set_header(header::DEVICES, devices)?;
        database.set_header(header::ENDPOINTS_FIRST, endpoints_first)?;
        database.set_header(header::ENDPOINTS_PAGES, endpoints_pages)?;
        database.set_header(header::LOG_FIRST, log_first)?;
        database.set_header(header::LOG_PAGES, log_pages)?;
        database.set_header(header::FREE_FIRST, free_first)?;
        database.set_header_long(header::FRAMES, frames)?;
        database.set_header(header::VERSION, ARENA_VERSION)?;
        database.set_header_long(header::MAGIC, ARENA_MAGIC)?;
        Ok(database)
    }

    /// Takes over an existing database.
    ///
    /// # Errors
    /// [`WriteError::Read`] with [`ReadError::NotAnArena`] if there is none.
    pub fn open(words: &'a [AtomicU32]) -> Result<Self, WriteError> {
        let database = Self { words: Words::new(words) };
        database.reader().check()?;
        let pages = database.header(header::PAGES)?;
        let free_first = database.header(header::FREE_FIRST)?;
        if pages > database.words.pages() || free_first > pages {
            return Err(WriteError::Read(ReadError::NotAnArena));
        }
        Ok(database)
    }

    /// Frees the index pages that no entry names. A writer that ended in the middle of a change
    /// may leave such pages.
    ///
    /// # Errors
    /// [`WriteError::Read`] if the page map names pages outside the arena.
    pub fn reclaim(&mut self) -> Result<(), WriteError> {
        crate::page_map::reclaim(self)
    }

    /// A reader of the same arena.
    #[must_use]
    pub const fn reader(&self) -> Reader<'a> {
        Reader::over(self.words)
    }

    pub(crate) fn header(&self, word: usize) -> Result<u32, WriteError> {
        self.words.load(0, word).ok_or(WriteError::Read(ReadError::NotAnArena))
    }

    pub(crate) fn set_header(&self, word: usize, value: u32) -> Result<(), WriteError> {
        self.words.store(0, word, value).ok_or(WriteError::Read(ReadError::NotAnArena))
    }

    fn set_header_long(&self, word: usize, value: u64) -> Result<(), WriteError> {
        self.words.write(0, word, value.as_bytes()).ok_or(WriteError::Read(ReadError::NotAnArena))
    }

    pub(crate) fn fill(&self, page: u32, value: u32) -> Result<(), WriteError> {
        for word in 0..PAGE_WORDS {
            self.words.store(page, word, value).ok_or(WriteError::Read(ReadError::Malformed))?;
        }
        Ok(())
    }

    /// Copies the bytes of an arena page.
    pub fn read_page(&self, index: u32, out: &mut [u8; pv_abi::PAGE_SIZE]) -> Option<()> {
        self.words.read(index, 0, out)
    }

    /// Number of pages in the arena.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.header(header::PAGES).unwrap_or(0)
    }

    /// Version of the contents.
    #[must_use]
    pub fn contents(&self) -> u64 {
        let mut bytes = [0; 8];
        match self.words.read(0, header::CONTENTS, &mut bytes) {
            Some(()) => u64::from_le_bytes(bytes),
            None => 0,
        }
    }

    /// Identity of the boot in which the database was made; 0 if it has none.
    #[must_use]
    pub fn boot(&self) -> u64 {
        let mut bytes = [0; 8];
        self.words.read(0, header::BOOT, &mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
    }

    /// Sets the identity of the boot; called once, when the database is made.
    ///
    /// # Errors
    /// [`WriteError::Read`] if there is no header.
    pub fn set_boot(&mut self, identity: u64) -> Result<(), WriteError> {
        self.set_header_long(header::BOOT, identity)
    }

    /// Sets the version of the contents.
    ///
    /// # Errors
    /// [`WriteError::Read`] if the arena is too short for a header.
    pub fn set_contents(&mut self, version: u64) -> Result<(), WriteError> {
        self.set_header_long(header::CONTENTS, version)
    }

    /// One past the highest number that a descriptor can have in this arena.
    #[must_use]
    pub fn number_end(&self) -> PartitionNumber {
        self.header(header::CHANNELS_FIRST).unwrap_or(FIRST_GUEST).min(MAX_PARTITION)
    }

    /// The pages of the channel table.
    #[must_use]
    pub fn channel_pages(&self) -> core::ops::Range<u32> {
        let first = self.header(header::CHANNELS_FIRST).unwrap_or(0);
        first..first.saturating_add(self.header(header::CHANNELS_PAGES).unwrap_or(0))
    }

    /// Number of entries in the channel table.
    #[must_use]
    pub fn channel_entries(&self) -> u32 {
        (self.channel_pages().len() as u32).saturating_mul(CHANNELS_IN_PAGE)
    }

    /// The lowest free number for a guest.
    #[must_use]
    pub fn free_number(&self) -> Option<PartitionNumber> {
        (FIRST_GUEST..self.number_end()).find(|&n| self.words.load(n, 0) == Some(0))
    }

    /// The numbers of all partitions, in ascending order.
    pub fn numbers(&self) -> impl Iterator<Item = PartitionNumber> + use<'a> {
        let words = self.words;
        (1..self.number_end()).filter(move |&number| {
            is_descriptor_number(number) && words.load(number, 0) == Some(DESCRIPTOR_MAGIC)
        })
    }

    /// The descriptor of a partition, even if a writer ended in the middle of a change. Fields that
    /// the change affected have then their old or their new value.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] if there is no descriptor with this number.
    pub fn descriptor_in_part(
        &self,
        number: PartitionNumber,
    ) -> Result<Box<PartitionDescriptor>, WriteError> {
        let mut descriptor = Box::new(PartitionDescriptor::new_zeroed());
        let bytes = descriptor.as_mut_bytes().get_mut(..DESCRIPTOR_BYTES).unwrap_or_default();
        if !is_descriptor_number(number) || number >= self.number_end() {
            return Err(WriteError::OutOfRange);
        }
        self.words.read(number, 0, bytes).ok_or(WriteError::OutOfRange)?;
        if descriptor.magic != DESCRIPTOR_MAGIC {
            return Err(WriteError::OutOfRange);
        }
        Ok(descriptor)
    }

    /// Writes a descriptor to the place of its number. This sets the magic number and the
    /// generation; all other fields are written as they are.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] if the arena has no place for a descriptor with this number.
    pub fn write_descriptor(&mut self, descriptor: &PartitionDescriptor) -> Result<(), WriteError> {
        let bytes = descriptor.as_bytes().get(..DESCRIPTOR_BYTES).unwrap_or_default();
        self.replace_descriptor(descriptor.number, DESCRIPTOR_MAGIC, bytes)
    }

    /// Removes a descriptor, which frees its number.
    ///
    /// # Errors
    /// The same as [`Self::write_descriptor`].
    pub fn remove_descriptor(&mut self, number: PartitionNumber) -> Result<(), WriteError> {
        self.replace_descriptor(number, 0, &[0; DESCRIPTOR_BYTES])
    }

    fn replace_descriptor(
        &mut self,
        number: PartitionNumber,
        magic: u32,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        if !is_descriptor_number(number) || number >= self.number_end() {
            return Err(WriteError::OutOfRange);
        }
        let after = self.begin(number, 1)?;
        let fields = bytes.get(8..).unwrap_or_default();
        self.words.write(number, 2, fields).ok_or(WriteError::OutOfRange)?;
        self.words.store(number, 0, magic).ok_or(WriteError::OutOfRange)?;
        self.words.store(number, 1, after).ok_or(WriteError::OutOfRange)
    }

    /// Makes a generation odd and returns the even value that ends the change.
    fn begin(&self, page: u32, word: usize) -> Result<u32, WriteError> {
        let odd = self.words.load(page, word).ok_or(WriteError::OutOfRange)? | 1;
        self.words.store(page, word, odd).ok_or(WriteError::OutOfRange)?;
        // Readers must see the odd generation before any of the stores that follow.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        Ok(odd.wrapping_add(1))
    }

    /// Writes entry `index` of the channel table; an entry of kind *free* clears it.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] past the end of the table.
    pub fn write_channel(&mut self, index: u32, entry: &ChannelEntry) -> Result<(), WriteError> {
        let place = self.reader().channel_place(index);
        let (page, word) = place.ok_or(WriteError::OutOfRange)?;
        let after = self.begin(page, word)?;
        let fields = entry.as_bytes().get(4..).unwrap_or_default();
        self.words.write(page, word + 1, fields).ok_or(WriteError::OutOfRange)?;
        self.words.store(page, word, after).ok_or(WriteError::OutOfRange)
    }

    /// The channels in use with their indices, in ascending order.
    pub fn channels(&self) -> impl Iterator<Item = (u32, ChannelEntry)> + use<'a> {
        let reader = self.reader();
        (0..self.channel_entries())
            .filter_map(move |index| Some((index, reader.channel(index).ok()?)))
    }

    /// The lowest unused entry of the channel table.
    #[must_use]
    pub fn free_channel(&self) -> Option<u32> {
        let reader = self.reader();
        (0..self.channel_entries()).find(|&index| {
            reader.channel_place(index).and_then(|(page, word)| self.words.load(page, word + 1))
                == Some(channel_kind::FREE)
        })
    }

    /// Number of PCI functions in the device table.
    #[must_use]
    pub fn devices(&self) -> u32 {
        self.header(header::DEVICES).unwrap_or(0)
    }

    /// The pages of the device table.
    #[must_use]
    pub fn device_pages(&self) -> core::ops::Range<u32> {
        let first = self.header(header::DEVICES_FIRST).unwrap_or(0);
        first..first.saturating_add(self.devices().div_ceil(DEVICES_IN_PAGE))
    }

    /// Writes entry `index` of the device table. This sets the generation.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] past the last function.
    pub fn write_device(&mut self, index: u32, entry: &DeviceEntry) -> Result<(), WriteError> {
        let place = self.reader().device_place(index);
        let (page, word) = place.ok_or(WriteError::OutOfRange)?;
        let after = self.begin(page, word)?;
        let fields = entry.as_bytes().get(4..).unwrap_or_default();
        self.words.write(page, word + 1, fields).ok_or(WriteError::OutOfRange)?;
        self.words.store(page, word, after).ok_or(WriteError::OutOfRange)
    }

    /// The pages of the endpoint table.
    #[must_use]
    pub fn endpoint_pages(&self) -> core::ops::Range<u32> {
        let first = self.header(header::ENDPOINTS_FIRST).unwrap_or(0);
        first..first.saturating_add(self.header(header::ENDPOINTS_PAGES).unwrap_or(0))
    }

    /// Number of entries in the endpoint table.
    #[must_use]
    pub fn endpoints(&self) -> u32 {
        (self.endpoint_pages().len() as u32).saturating_mul(ENDPOINTS_IN_PAGE)
    }

    /// Returns the page of entry `index` of the endpoint table, and the index of the entry's first
    /// word in that page. Returns `None` past the end of the table.
    fn endpoint_place(&self, index: u32) -> Option<(u32, usize)> {
        let page = self.endpoint_pages().start.checked_add(index / ENDPOINTS_IN_PAGE)?;
        let word = (index % ENDPOINTS_IN_PAGE) as usize * (size_of::<Endpoint>() / 4);
        (index < self.endpoints()).then_some((page, word))
    }

    /// Entry `index` of the endpoint table, whether it is in use or not.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] past the end of the table, [`ReadError::Busy`].
    pub fn endpoint(&self, index: u32) -> Result<Box<Endpoint>, ReadError> {
        let (page, word) = self.endpoint_place(index).ok_or(ReadError::OutOfRange)?;
        let mut entry = Box::new(Endpoint::new_zeroed());
        self.reader().read_stable(page, word, word, entry.as_mut_bytes())?;
        Ok(entry)
    }

    /// Writes entry `index` of the endpoint table. This sets the generation.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] past the end of the table.
    pub fn write_endpoint(&mut self, index: u32, entry: &Endpoint) -> Result<(), WriteError> {
        let (page, word) = self.endpoint_place(index).ok_or(WriteError::OutOfRange)?;
        let after = self.begin(page, word)?;
        let fields = entry.as_bytes().get(4..).unwrap_or_default();
        self.words.write(page, word + 1, fields).ok_or(WriteError::OutOfRange)?;
        self.words.store(page, word, after).ok_or(WriteError::OutOfRange)
    }

    /// Number of arena pages: all of them, and those in use.
    #[must_use]
    pub fn arena_pages(&self) -> (u32, u32) {
        let pages = self.pages();
        let log = self.header(header::LOG_PAGES).unwrap_or(0);
        let index = self
            .header(header::FREE_FIRST)
            .unwrap_or(0)
            .saturating_sub(self.header(header::ROOT).unwrap_or(0).saturating_add(1 + log))
            .saturating_sub(self.header(header::FREE_CHAINED).unwrap_or(0));
        let descriptors = u32::try_from(self.numbers().count()).unwrap_or(u32::MAX);
        let tables = [self.channel_pages(), self.device_pages(), self.endpoint_pages()];
        let tables = tables.map(|pages| pages.len() as u32);
        let fixed = 1 + tables.iter().sum::<u32>() + 1 + log;
        (pages, fixed.saturating_add(index).saturating_add(descriptors))
    }

    /// Size of the log ring in bytes.
    #[must_use]
    pub fn log_bytes(&self) -> u32 {
        self.header(header::LOG_PAGES).unwrap_or(0).saturating_mul(pv_abi::PAGE_SIZE as u32)
    }

    /// Reads from the log pages. `offset` is in bytes, a multiple of 4.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] if the bytes lie outside the log pages, or the offset is not a
    /// multiple of 4.
    pub fn read_log(&self, offset: u32, out: &mut [u8]) -> Result<(), WriteError> {
        self.log_words(offset, out.len(), |page, word, range| {
            self.words.read(page, word, out.get_mut(range)?)
        })
    }

    /// Writes to the log pages. `offset` is in bytes, a multiple of 4; a partial last word is
    /// padded with zeros.
    ///
    /// # Errors
    /// The same as [`Self::read_log`].
    pub fn write_log(&mut self, offset: u32, bytes: &[u8]) -> Result<(), WriteError> {
        self.log_words(offset, bytes.len(), |page, word, range| {
            self.words.write(page, word, bytes.get(range)?)
        })
    }

    /// Splits a part of the log into pieces that each lie in one page.
    fn log_words(
        &self,
        offset: u32,
        len: usize,
        mut piece: impl FnMut(u32, usize, core::ops::Range<usize>) -> Option<()>,
    ) -> Result<(), WriteError> {
        let first = self.header(header::LOG_FIRST)?;
        let end = u64::from(offset) + len as u64;
        if !offset.is_multiple_of(4) || end > u64::from(self.log_bytes()) {
            return Err(WriteError::OutOfRange);
        }
        let (mut done, page_size) = (0, pv_abi::PAGE_SIZE);
        while done < len {
            let at = offset as usize + done;
            let room = (page_size - at % page_size).min(len - done);
            piece(first + (at / page_size) as u32, at % page_size / 4, done..done + room)
                .ok_or(WriteError::OutOfRange)?;
            done += room;
        }
        Ok(())
    }

    /// Makes `owner` the owner of `frames` frames from `first` on.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] if some of them are not in the page map; [`WriteError::Full`] if
    /// no arena pages are left to describe the change.
    pub fn set_owner(&mut self, first: u64, frames: u64, owner: Owner) -> Result<(), WriteError> {
        crate::page_map::set_owner(self, first, frames, owner)
    }

    /// Maximum number of arena pages that changes of owner would need. Each change is given as
    /// first frame, number of frames, and owner. Makes none of the changes.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] if some of the frames are not in the page map.
    pub fn pages_for(
        &self,
        changes: impl Iterator<Item = (u64, u64, Owner)>,
    ) -> Result<u32, WriteError> {
        crate::page_map::pages_for(self, changes)
    }

    /// Number of arena pages that can still become index pages.
    #[must_use]
    pub fn free_pages(&self) -> u32 {
        let pages = self.header(header::PAGES).unwrap_or(0);
        let unused = pages.saturating_sub(self.header(header::FREE_FIRST).unwrap_or(pages));
        unused.saturating_add(self.header(header::FREE_CHAINED).unwrap_or(0))
    }

    pub(crate) fn take_page(&mut self) -> Result<u32, WriteError> {
        let chain = self.header(header::FREE_CHAIN)?;
        if chain != 0 {
            let next = self.words.load(chain, 0).ok_or(ReadError::Malformed)?;
            let chained = self.header(header::FREE_CHAINED)?;
            self.set_header(header::FREE_CHAIN, next)?;
            self.set_header(header::FREE_CHAINED, chained.saturating_sub(1))?;
            return Ok(chain);
        }
        let page = self.header(header::FREE_FIRST)?;
        if page >= self.header(header::PAGES)? {
            return Err(WriteError::Full(1));
        }
        self.set_header(header::FREE_FIRST, page + 1)?;
        Ok(page)
    }

    pub(crate) fn give_page(&mut self, page: u32) -> Result<(), WriteError> {
        let next = self.header(header::FREE_CHAIN)?;
        self.words.store(page, 0, next).ok_or(ReadError::Malformed)?;
        let chained = self.header(header::FREE_CHAINED)?;
        self.set_header(header::FREE_CHAIN, page)?;
        self.set_header(header::FREE_CHAINED, chained.saturating_add(1))
    }
}

const _: () = {
    use core::mem::offset_of;
    use pv_abi::uv::database::ArenaHeader;
    assert!(offset_of!(ArenaHeader, magic) == header::MAGIC * 4);
    assert!(offset_of!(ArenaHeader, version) == header::VERSION * 4);
    assert!(offset_of!(ArenaHeader, pages) == header::PAGES * 4);
    assert!(offset_of!(ArenaHeader, contents) == header::CONTENTS * 4);
    assert!(offset_of!(ArenaHeader, page_map_root) == header::ROOT * 4);
    assert!(offset_of!(ArenaHeader, log_first) == header::LOG_FIRST * 4);
    assert!(offset_of!(ArenaHeader, log_pages) == header::LOG_PAGES * 4);
    assert!(offset_of!(ArenaHeader, free_first) == header::FREE_FIRST * 4);
    assert!(offset_of!(ArenaHeader, frames) == header::FRAMES * 4);
    assert!(offset_of!(ArenaHeader, free_chain) == header::FREE_CHAIN * 4);
    assert!(offset_of!(ArenaHeader, free_chained) == header::FREE_CHAINED * 4);
    assert!(offset_of!(ArenaHeader, boot) == header::BOOT * 4);
    assert!(offset_of!(ArenaHeader, channels_first) == header::CHANNELS_FIRST * 4);
    assert!(offset_of!(ArenaHeader, channels_pages) == header::CHANNELS_PAGES * 4);
    assert!(offset_of!(ArenaHeader, devices_first) == header::DEVICES_FIRST * 4);
    assert!(offset_of!(ArenaHeader, devices) == header::DEVICES * 4);
    assert!(offset_of!(ArenaHeader, endpoints_first) == header::ENDPOINTS_FIRST * 4);
    assert!(offset_of!(ArenaHeader, endpoints_pages) == header::ENDPOINTS_PAGES * 4);
    assert!(offset_of!(PartitionDescriptor, generation) == 4);
    assert!(offset_of!(ChannelEntry, kind) == 4);
};
