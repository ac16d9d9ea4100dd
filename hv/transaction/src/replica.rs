//! The data for a replica of the database: pages of the arena, and the records since.
//!
//! ```text
//! replica: Arena, page by page, until the version stays the same -> Records from there on
//! ```
//!
//! Rule: an answer fits one frame of a channel, and takes only a part of a turn of the ultravisor's
//! loop, even if the arena is empty.

use alloc::vec::Vec;

use control::command::{Answer, RecordRow};
use pv_abi::PAGE_SIZE;
use serde_bytes::ByteBuf;

use crate::Engine;
use crate::change::without_zeros;

/// Maximum number of bytes of an answer without its frame, which has room for 24 KiB.
const BYTES: usize = 20 * 1024;

/// Maximum number of pages read for an answer; each takes some microseconds, even if it is empty.
const PAGES: usize = 128;

/// Answers [`control::command::Query::Arena`].
pub(crate) fn arena(engine: &Engine, first: u32, most: u32) -> Answer {
    let database = engine.database();
    let pages = database.pages();
    let mut contents: Vec<ByteBuf> = Vec::new();
    let (mut content, mut bytes) = ([0; PAGE_SIZE], 0);
    for page in (first..pages).take(PAGES.min(most as usize)) {
        if database.read_page(page, &mut content).is_none() {
            break;
        }
        let content = without_zeros(&content);
        bytes += content.len() + 4;
        contents.push(ByteBuf::from(content));
        if bytes > BYTES - PAGE_SIZE {
            break;
        }
    }
    Answer::Arena { first, pages, contents }
}

/// Answers [`control::command::Query::Records`].
pub(crate) fn records(engine: &Engine, from: u64, most: u32) -> Answer {
    let (oldest, next) = engine.log_bounds();
    let mut rows: Vec<RecordRow> = Vec::new();
    let mut bytes = 0;
    for record in engine.records_from(from).take(most as usize) {
        let row = record.row();
        let changes = record.changes.iter().filter_map(|c| postcard::to_allocvec(c).ok());
        let mut changes: Vec<ByteBuf> = changes.map(ByteBuf::from).collect();
        let texts = row.what.len() + row.reason.len() + 4 * row.partitions.len() + 128;
        let size: usize = changes.iter().map(|change| change.len() + 4).sum();
        if size + texts > BYTES {
            changes.clear();
        }
        bytes += texts + changes.iter().map(|change| change.len() + 4).sum::<usize>();
        if bytes > BYTES && !rows.is_empty() {
            break;
        }
        rows.push(RecordRow { row, changes });
    }
    Answer::Records { rows, oldest, next }
}
