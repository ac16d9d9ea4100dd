//! The DMA region: chunks of memory for the queues of functions.
//!
//! Rule: a chunk is one function's from the start of its driver until its reset is confirmed. If the
//! reset is not confirmed, the chunk is held until a later reset of the function is.

use partition_runtime::partition;
use virtio::queue::Memory;

/// Number of chunks, and so of functions that can be driven: a chunk of 168 KiB has room for a page and
/// two queues of 77 KiB.
pub const CHUNKS: usize = control::io::MAX_FUNCTIONS;

/// The chunks.
pub struct Region {
    taken: [bool; CHUNKS],
    memory: Memory<'static>,
}

/// A chunk of one function.
#[derive(Debug)]
pub struct Chunk {
    index: usize,
    /// Its memory.
    pub memory: Memory<'static>,
}

impl Region {
    /// The region that the start block names.
    #[must_use]
    pub fn of_start_block() -> Self {
        let words = partition::dma_region();
        let frame = partition::frame_of(partition::start().dma).unwrap_or(0);
        Self::new(Memory { words, address: frame << 12 })
    }

    /// A region of this memory.
    #[must_use]
    pub fn new(memory: Memory<'static>) -> Self {
        Self { taken: [false; CHUNKS], memory }
    }

    /// Takes a chunk. Returns `None` if all are taken.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        let index = self.taken.iter().position(|taken| !taken)?;
        // Chunks are whole pages.
        let words = self.memory.words.len() / CHUNKS / 1024 * 1024;
        let first = index * words;
        let part = self.memory.words.get(first..first + words).filter(|part| !part.is_empty())?;
        self.taken[index] = true;
        let memory = Memory { words: part, address: self.memory.address + first as u64 * 4 };
        Some(Chunk { index, memory })
    }

    /// Gives back the chunk of a function whose reset is confirmed.
    pub fn give_back(&mut self, chunk: &Chunk) {
        if let Some(taken) = self.taken.get_mut(chunk.index) {
            *taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use virtio::queue::Queue;

    /// A region as the boot partition makes it: 2 MiB.
    fn region() -> (&'static [AtomicU32], Region) {
        let words: Vec<AtomicU32> = (0..512 * 1024).map(|_| AtomicU32::new(0)).collect();
        let words: &'static [AtomicU32] = words.leak();
        (words, Region::new(Memory { words, address: 0x10_0000 }))
    }

    #[test]
    fn chunks_are_apart_and_come_back() {
        let (words, mut region) = region();
        let chunks: Vec<Chunk> = (0..CHUNKS).map(|_| region.take_chunk().unwrap()).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.memory.words.len(), 42 * 1024);
            assert_eq!(chunk.memory.address, 0x10_0000 + index as u64 * 0x2_a000);
            assert!(core::ptr::eq(&words[index * 42 * 1024], &chunk.memory.words[0]));
        }
        assert!(region.take_chunk().is_none());
        region.give_back(&chunks[5]);
        assert_eq!(region.take_chunk().unwrap().memory.address, chunks[5].memory.address);
        assert!(Region::new(Memory { words: &[], address: 0 }).take_chunk().is_none());
    }

    #[test]
    fn a_chunk_has_room_for_a_page_and_two_queues_of_the_largest_size() {
        let chunk = region().1.take_chunk().unwrap();
        let (_, mut rest) = chunk.memory.split(1024).unwrap();
        for queue in 0..2 {
            let own = rest.split(Queue::words(256, true));
            (_, rest) = own.unwrap_or_else(|| panic!("queue {queue}"));
        }
    }
}
