//! Finds the symbol table that a Linux kernel carries for itself, by its shape.
//!
//! ```text
//! up to 6.3:  offsets  base  count  names  markers  [order]  tokens  token index
//! after:                     count  names  markers  tokens  token index  offsets  base  [order]
//! ```
//!
//! Names are strings of tokens, byte by byte. `markers` are the offsets of every 256th name,
//! `tokens` are 256 strings, and `token index` has their offsets. The first character of a name is
//! its type. Addresses are 32-bit offsets from `base`. Up to 6.14 an offset may be negative; then
//! the negative ones mean `base - 1 - offset`, and the others are themselves the addresses of
//! per-CPU data. (Linux, `scripts/kallsyms.c` and `kernel/kallsyms.c`.)
//!
//! Rule: nothing is guessed. Each part is found by the shape that it must have, given the part
//! before it; if a part does not fit, there are no symbols.

use std::ops::Range;

/// Symbols of a kernel at most.
const MAX_SYMBOLS: usize = 1 << 20;
/// The largest average length of a name, in bytes with its length byte; it bounds a search.
const MAX_AVERAGE: usize = 64;
/// Bytes from the count to the tokens at most.
const MAX_DISTANCE: usize = 32 << 20;
/// The most names that the search looks at.
const MAX_STEPS: usize = 50_000_000;
/// Bytes of one number in the table of the names' order.
const ORDER_BYTES: usize = 3;
const TOKENS: usize = 256;
/// Names from one marker to the next.
const STEP: usize = 256;

/// The functions of a kernel with their addresses, if the kernel has such a table.
pub(crate) fn find(image: &[u8]) -> Option<Vec<(u64, String)>> {
    digit_tokens(image).find_map(|digits| {
        let tokens = Tokens::around(image, digits)?;
        let names = Names::before(image, tokens.start)?;
        let addresses = addresses(image, &tokens, &names)?;
        let texts = names.texts(image, &tokens)?;
        Some(functions(addresses, texts))
    })
}

/// The places that look like the tokens of the ten digits.
fn digit_tokens(image: &[u8]) -> impl Iterator<Item = usize> {
    const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
    image.windows(DIGITS.len()).enumerate().filter(|(_, w)| *w == DIGITS).map(|(at, _)| at)
}

fn align(at: usize, to: usize) -> usize {
    at.next_multiple_of(to)
}

fn u32_at(image: &[u8], at: usize) -> Option<u32> {
    image.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(image: &[u8], at: usize) -> Option<u64> {
    image.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The 256 tokens.
struct Tokens {
    /// The offset of the first token.
    start: usize,
    /// The offset at which their index ends.
    end: usize,
    texts: Vec<Range<usize>>,
}

impl Tokens {
    /// The table in which the token of `'0'` is at `digits`.
    fn around(image: &[u8], digits: usize) -> Option<Self> {
        /// The longest token; a token is a part of a name.
        const LONGEST: usize = 128;
        let mut start = digits;
        for _ in 0..usize::from(b'0') {
            let end = start.checked_sub(1)?;
            let window = end.saturating_sub(LONGEST);
            let before = image.get(window..end)?.iter().rposition(|byte| *byte == 0)?;
            start = window + before + 1;
        }
        // The bytes before the first token are padding or the end of the markers, so they may have
        // any value.
        let mut texts = Vec::with_capacity(TOKENS);
        let mut at = start;
        for _ in 0..TOKENS {
            let window = image.get(at..image.len().min(at + LONGEST))?;
            let length = window.iter().position(|byte| *byte == 0)?;
            texts.push(at..at + length);
            at += length + 1;
        }
        let index = align(at, 8);
        for (number, text) in texts.iter().enumerate() {
            let bytes = image.get(index + number * 2..)?.first_chunk()?;
            if usize::from(u16::from_le_bytes(*bytes)) != text.start - start {
                return None;
            }
        }
        Some(Self { start, end: align(index + TOKENS * 2, 8), texts })
    }
}

/// The place of the names.
struct Names {
    /// The offset of the first name.
    start: usize,
    count: usize,
}

impl Names {
    /// Finds the names: with the tables after them, they must end where the tokens start.
    fn before(image: &[u8], tokens: usize) -> Option<Self> {
        let nearest = tokens & !7;
        let mut steps = 0;
        (0..nearest.min(MAX_DISTANCE)).step_by(8).find_map(|back| {
            let at = nearest.checked_sub(back + 8)?;
            let count = usize::try_from(u64_at(image, at)?).ok()?;
            let names = Self { start: at + 8, count };
            let room = tokens.checked_sub(names.start)?;
            let plausible = (STEP..=MAX_SYMBOLS).contains(&count)
                && (2 * count..MAX_AVERAGE * count).contains(&room);
            steps += if plausible { count } else { 0 };
            (plausible && steps <= MAX_STEPS && names.check(image, tokens)?).then_some(names)
        })
    }

    /// Whether the markers, perhaps the order, and the tokens follow the names.
    fn check(&self, image: &[u8], tokens: usize) -> Option<bool> {
        let mut marked = Vec::with_capacity(self.count / STEP + 1);
        let mut at = self.start;
        for number in 0..self.count {
            if number % STEP == 0 {
                marked.push(at - self.start);
            }
            (_, at) = name(image, at)?;
            if at > tokens {
                return Some(false);
            }
        }
        let markers = align(at, 8);
        let end = align(markers + marked.len() * 4, 8);
        if end != tokens && align(end + self.count * ORDER_BYTES, 8) != tokens {
            return Some(false);
        }
        let mut marked = marked.into_iter().enumerate();
        Some(marked.all(|(n, at)| u32_at(image, markers + n * 4) == u32::try_from(at).ok()))
    }

    /// The names with their types.
    fn texts(&self, image: &[u8], tokens: &Tokens) -> Option<Vec<String>> {
        let mut texts = Vec::with_capacity(self.count);
        let mut at = self.start;
        for _ in 0..self.count {
            let (start, end) = name(image, at)?;
            let mut text = Vec::new();
            for token in image.get(start..end)? {
                text.extend_from_slice(image.get(tokens.texts[usize::from(*token)].clone())?);
            }
            texts.push(String::from_utf8_lossy(&text).into_owned());
            at = end;
        }
        Some(texts)
    }
}

/// The start and end of the tokens of the name at `at`. Its length is before them, in one byte, or
/// in two if the first has its top bit set.
fn name(image: &[u8], at: usize) -> Option<(usize, usize)> {
    let low = usize::from(*image.get(at)?);
    if low & 0x80 == 0 {
        return Some((at + 1, at + 1 + low));
    }
    let high = usize::from(*image.get(at + 1)?);
    Some((at + 2, at + 2 + (low & 0x7f | high << 7)))
}

/// The addresses, which stand before the names or after the tokens.
fn addresses(image: &[u8], tokens: &Tokens, names: &Names) -> Option<Vec<u64>> {
    let bytes = names.count.checked_mul(4)?;
    let count_at = names.start.checked_sub(8)?;
    let before = count_at.checked_sub(8).and_then(|base| {
        let offsets = base.checked_sub(align(bytes, 8))?;
        based(image, offsets, base, names.count)
    });
    before.or_else(|| based(image, tokens.end, align(tokens.end + bytes, 8), names.count))
}

fn based(image: &[u8], offsets: usize, base: usize, count: usize) -> Option<Vec<u64>> {
    /// The lowest address that Linux is linked to.
    const LOWEST: u64 = 0xffff_ffff_8000_0000;
    let base = u64_at(image, base)?;
    if base < LOWEST {
        return None;
    }
    let offsets: Vec<i32> = (0..count)
        .map(|n| u32_at(image, offsets + n * 4).map(|o| o as i32))
        .collect::<Option<_>>()?;
    let mixed = offsets.iter().any(|offset| *offset < 0);
    let address = |offset: i32| match offset {
        0.. if mixed => u64::from(offset.unsigned_abs()),
        0.. => base.wrapping_add(u64::from(offset.unsigned_abs())),
        _ => base.wrapping_sub(1).wrapping_add(offset.unsigned_abs().into()),
    };
    Some(offsets.into_iter().map(address).collect())
}

/// The symbols of code, of types t, T, w and W.
fn functions(addresses: Vec<u64>, texts: Vec<String>) -> Vec<(u64, String)> {
    let code = |text: &str| text.starts_with(['t', 'T', 'w', 'W']);
    addresses
        .into_iter()
        .zip(texts)
        .filter(|(_, text)| code(text))
        .map(|(address, text)| (address, text[1..].to_owned()))
        .collect()
}
