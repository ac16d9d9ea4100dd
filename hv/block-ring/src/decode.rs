//! Untrusted slots to checked requests.

use pv_abi::xen::block::{
    DISCARD, DiscardRequest, FLUSH, INDIRECT, INDIRECT_PAGES_MAX, IndirectRequest, PAGE_SECTORS,
    READ, Request, Response, SEGMENTS_MAX, SEGMENTS_PER_PAGE, STATUS_ERROR, STATUS_NOT_SUPPORTED,
    Segment, WRITE,
};

use crate::REQUEST_WORDS;

/// A slot as it was fetched; nothing in it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawRequest(pub [u64; REQUEST_WORDS]);

impl RawRequest {
    /// The front end's id, which the response repeats.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.0[1]
    }

    /// Whether the request asks for a flush. An indirect request never does, whatever its inner
    /// operation: it is refused.
    #[must_use]
    pub fn is_flush(&self) -> bool {
        self.plain().operation == FLUSH
    }

    /// The operation of the response: for an indirect request the inner one.
    #[must_use]
    pub fn response_operation(&self) -> u8 {
        let request: IndirectRequest = self.indirect();
        if request.operation == INDIRECT { request.indirect_op } else { request.operation }
    }

    /// The response with a status.
    #[must_use]
    pub fn response(&self, status: i16) -> Response {
        let operation = self.response_operation();
        Response { id: self.id(), operation, status, ..Response::default() }
    }

    fn plain(&self) -> Request {
        zerocopy::transmute!(self.0)
    }

    fn discard(&self) -> DiscardRequest {
        let [a, b, c, d, ..] = self.0;
        zerocopy::transmute!([a, b, c, d])
    }

    fn indirect(&self) -> IndirectRequest {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        zerocopy::transmute!([a, b, c, d, e, f, g, h])
    }
}

/// The features that an endpoint offers. They are the same in every server, for the endpoint's
/// life, because a request that was built for one server may be issued again by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    /// Sectors of 512 bytes of the endpoint.
    pub sectors: u64,
    /// Whether writes and discards are refused.
    pub read_only: bool,
    /// Whether discards are offered (`feature-discard`).
    pub discard: bool,
    /// Maximum number of segments of an indirect request (`feature-max-indirect-segments`); 0 if
    /// indirect requests are not offered. At most 4096.
    pub indirect_segments: u16,
}

/// Why a request is not carried out. Each is a mistake of the front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The operation does not exist, or was not offered.
    NotOffered {
        /// The operation.
        operation: u8,
    },
    /// The inner operation of an indirect request is neither READ nor WRITE.
    InnerOperation {
        /// The inner operation.
        operation: u8,
    },
    /// A write or a discard at a read-only endpoint.
    ReadOnly,
    /// A read, a write or a discard of nothing.
    Empty,
    /// More segments than a request of this kind may have.
    TooManySegments {
        /// Segments in the request.
        segments: u16,
        /// The maximum.
        most: u16,
    },
    /// The sectors of a segment are not in the page, or end before they begin.
    Segment {
        /// First sector of the segment.
        first: u8,
        /// Last sector of the segment.
        last: u8,
    },
    /// The sectors are not all inside the endpoint.
    PastEnd {
        /// First sector of the request.
        sector: u64,
        /// Number of sectors of the request.
        sectors: u64,
    },
    /// A flush that carries data. No stock front end sends it with the features that are offered.
    FlushWithData,
}

impl Refusal {
    /// The status of the answer, or `None` if the client is detached instead. A flush is never
    /// answered with an error: a guest then stops flushing and reports success.
    #[must_use]
    pub const fn status(self) -> Option<i16> {
        match self {
            Self::NotOffered { .. } => Some(STATUS_NOT_SUPPORTED),
            Self::FlushWithData => None,
            _ => Some(STATUS_ERROR),
        }
    }
}

/// A request that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The front end's id.
    pub id: u64,
    /// The operation of the request.
    pub kind: Kind,
}

/// The operation that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read or a write with its segments; its sectors are inside the endpoint.
    Transfer(Transfer),
    /// A read or a write whose segments are still to be fetched from pages of the client.
    Indirect(Indirect),
    /// Write the device's volatile cache to the medium.
    Flush,
    /// The contents of the sectors are no longer needed; all are inside the endpoint.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors, not 0.
        sectors: u64,
    },
}

/// A read or a write, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// A write, not a read.
    pub write: bool,
    /// First sector.
    pub sector: u64,
    /// Number of sectors of all segments, not 0.
    pub sectors: u32,
    /// The segments.
    pub segments: Segments,
}

/// The segments of a request that is not indirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    all: [Segment; SEGMENTS_MAX],
    count: usize,
}

impl Segments {
    /// The segments in use; each has its sectors inside its page.
    #[must_use]
    pub fn as_slice(&self) -> &[Segment] {
        &self.all[..self.count]
    }
}

/// A read or a write whose segments lie in pages of the client.
///
/// The caller copies the pages, since the client can write them at any time, and decodes every
/// segment from its copy ([`Indirect::check`]). A successor that issues the request again copies
/// and checks the pages again. If the pages have changed by then, that harms only the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    /// A write, not a read.
    pub write: bool,
    /// First sector.
    pub sector: u64,
    /// Number of segments, not 0.
    pub segments: u16,
    grefs: [u32; INDIRECT_PAGES_MAX],
}

impl Indirect {
    /// The grants of the pages with the segments, as many as the number of segments needs.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.grefs[..usize::from(self.segments).div_ceil(SEGMENTS_PER_PAGE)]
    }

    /// Checks all segments, from the caller's copy, and returns the number of sectors.
    ///
    /// # Errors
    /// A segment is not inside its page, or the sectors are not inside the endpoint.
    ///
    /// `words` yields the first [`Indirect::segments`] words of the pages; what comes after them is
    /// not looked at. Fewer words than segments is [`Refusal::Empty`].
    pub fn check(
        &self,
        words: impl IntoIterator<Item = u64>,
        features: &Features,
    ) -> Result<u32, Refusal> {
        let mut sectors = 0;
        let mut seen = 0;
        for word in words.into_iter().take(usize::from(self.segments)) {
            sectors += u32::from(count_sectors(&decode_segment(word))?);
            seen += 1;
        }
        if seen != usize::from(self.segments) {
            return Err(Refusal::Empty);
        }
        check_range(self.sector, u64::from(sectors), features)?;
        Ok(sectors)
    }
}

/// The segment in a word of an indirect page.
#[must_use]
pub fn decode_segment(word: u64) -> Segment {
    zerocopy::transmute!(word)
}

/// Checks a request against the features that its endpoint offers.
///
/// # Errors
/// The front end's mistake; [`Refusal::status`] says how it is answered.
pub fn decode(raw: &RawRequest, features: &Features) -> Result<Checked, Refusal> {
    let request = raw.plain();
    let kind = match request.operation {
        READ | WRITE => Kind::Transfer(decode_transfer(&request, features)?),
        INDIRECT if features.indirect_segments > 0 => decode_indirect(&raw.indirect(), features)?,
        FLUSH if request.nr_segments == 0 => Kind::Flush,
        FLUSH => return Err(Refusal::FlushWithData),
        DISCARD if features.discard => decode_discard(&raw.discard(), features)?,
        operation => return Err(Refusal::NotOffered { operation }),
    };
    Ok(Checked { id: raw.id(), kind })
}

fn decode_transfer(request: &Request, features: &Features) -> Result<Transfer, Refusal> {
    let write = request.operation == WRITE;
    check_writable(write, features)?;
    let count = usize::from(request.nr_segments);
    let Some(segments) = request.segments.get(..count) else {
        let (segments, most) = (u16::from(request.nr_segments), 11);
        return Err(Refusal::TooManySegments { segments, most });
    };
    let mut sectors = 0;
    for segment in segments {
        sectors += u32::from(count_sectors(segment)?);
    }
    check_range(request.sector_number, u64::from(sectors), features)?;
    let segments = Segments { all: request.segments, count };
    Ok(Transfer { write, sector: request.sector_number, sectors, segments })
}

fn decode_indirect(request: &IndirectRequest, features: &Features) -> Result<Kind, Refusal> {
    let write = match request.indirect_op {
        READ => false,
        WRITE => true,
        operation => return Err(Refusal::InnerOperation { operation }),
    };
    check_writable(write, features)?;
    let segments = request.nr_segments;
    let most = features.indirect_segments.min(MOST_INDIRECT);
    if segments > most {
        return Err(Refusal::TooManySegments { segments, most });
    }
    // Each segment has at least one sector.
    let sector = request.sector_number;
    check_range(sector, u64::from(segments), features)?;
    Ok(Kind::Indirect(Indirect { write, sector, segments, grefs: request.indirect_grefs }))
}

/// Segments that fit in [`INDIRECT_PAGES_MAX`] pages.
const MOST_INDIRECT: u16 = 4096;
const _: () = assert!(MOST_INDIRECT as usize == INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE);
const _: () = assert!(SEGMENTS_MAX == 11);

fn decode_discard(request: &DiscardRequest, features: &Features) -> Result<Kind, Refusal> {
    check_writable(true, features)?;
    let (sector, sectors) = (request.sector_number, request.nr_sectors);
    check_range(sector, sectors, features)?;
    Ok(Kind::Discard { sector, sectors })
}

fn check_writable(write: bool, features: &Features) -> Result<(), Refusal> {
    if write && features.read_only { Err(Refusal::ReadOnly) } else { Ok(()) }
}

fn count_sectors(segment: &Segment) -> Result<u8, Refusal> {
    let (first, last) = (segment.first_sect, segment.last_sect);
    if last >= PAGE_SECTORS || first > last {
        return Err(Refusal::Segment { first, last });
    }
    Ok(last - first + 1)
}

fn check_range(sector: u64, sectors: u64, features: &Features) -> Result<(), Refusal> {
    if sectors == 0 {
        return Err(Refusal::Empty);
    }
    match sector.checked_add(sectors) {
        Some(end) if end <= features.sectors => Ok(()),
        _ => Err(Refusal::PastEnd { sector, sectors }),
    }
}
