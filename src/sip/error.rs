//! What can be wrong with a peer's bytes, and the one answer to each. Never strings built at run time, never policy.

/// A fault of the peer: what and where. `offset` counts bytes from the front of the message, or from the front of
/// the slice that was parsed when it was parsed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub offset: u32,
}

impl Fault {
    pub const fn new(kind: FaultKind, offset: u32) -> Self {
        Fault { kind, offset }
    }

    /// The same fault as seen from the front of a text in which the parsed slice begins at `base`.
    pub const fn shifted(self, base: u32) -> Self {
        Fault { kind: self.kind, offset: self.offset.saturating_add(base) }
    }
}

/// Closed: a new kind is a new counter and a new answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FaultKind {
    /// CR without LF in the head or before the start line.
    BareCarriageReturn,
    /// LF without CR in the head or before the start line.
    BareLineFeed,
    /// A body longer than the limit.
    BodyLong,
    /// Call-ID empty or with blanks or control bytes.
    CallIdBad,
    /// Contact of a REGISTER that cannot be read.
    ContactBad,
    /// More Contact values in a request than the limit.
    ContactsMany,
    /// Content-Length that is not digits alone, or overflows.
    ContentLengthBad,
    /// Content-Length twice, in either form.
    ContentLengthRepeated,
    /// No Content-Length on a stream.
    ContentLengthMissing,
    /// CSeq that is not `number method`, or a number above 2^31-1.
    CSeqBad,
    /// CSeq method unlike the request's method.
    CSeqMismatch,
    /// From that cannot be read.
    FromBad,
    /// A head longer than the limit.
    HeadLong,
    /// A header line (with its folds) longer than the limit.
    HeaderLineLong,
    /// A header line without colon or with a name that is no token.
    HeaderNameBad,
    /// More header lines than the limit.
    HeadersMany,
    /// A header that must be there is not.
    HeaderMissing,
    /// A header that may come once came twice.
    HeaderRepeated,
    /// Max-Forwards that is not a number from 0 to 255.
    MaxForwardsBad,
    /// NUL in the head.
    Nul,
    /// More parameters in one header value than the limit.
    ParametersMany,
    /// Blanks in the request line where none may be, a method that is no token, a version that is none.
    RequestLineBad,
    /// Request-URI that cannot be read.
    RequestUriBad,
    /// Route value that cannot be read.
    RouteBad,
    /// More Route or Record-Route values than the limit.
    RoutesMany,
    /// Start line that is neither a request line nor a status line.
    StartLineBad,
    /// A start line followed by a fold.
    StartLineFolded,
    /// A start line longer than the limit.
    StartLineLong,
    /// A status code that is not three digits from 100 to 699.
    StatusBad,
    /// To that cannot be read.
    ToBad,
    /// A URI that cannot be read, where no narrower kind applies.
    UriBad,
    /// A Request-URI longer than the limit.
    UriLong,
    /// A SIP version other than 2.0.
    VersionUnsupported,
    /// Topmost Via that cannot be read.
    ViaBad,
    /// More Via values than the limit.
    ViasMany,
}

impl FaultKind {
    pub const ALL: [FaultKind; 35] = [
        FaultKind::BareCarriageReturn,
        FaultKind::BareLineFeed,
        FaultKind::BodyLong,
        FaultKind::CallIdBad,
        FaultKind::ContactBad,
        FaultKind::ContactsMany,
        FaultKind::ContentLengthBad,
        FaultKind::ContentLengthRepeated,
        FaultKind::ContentLengthMissing,
        FaultKind::CSeqBad,
        FaultKind::CSeqMismatch,
        FaultKind::FromBad,
        FaultKind::HeadLong,
        FaultKind::HeaderLineLong,
        FaultKind::HeaderNameBad,
        FaultKind::HeadersMany,
        FaultKind::HeaderMissing,
        FaultKind::HeaderRepeated,
        FaultKind::MaxForwardsBad,
        FaultKind::Nul,
        FaultKind::ParametersMany,
        FaultKind::RequestLineBad,
        FaultKind::RequestUriBad,
        FaultKind::RouteBad,
        FaultKind::RoutesMany,
        FaultKind::StartLineBad,
        FaultKind::StartLineFolded,
        FaultKind::StartLineLong,
        FaultKind::StatusBad,
        FaultKind::ToBad,
        FaultKind::UriBad,
        FaultKind::UriLong,
        FaultKind::VersionUnsupported,
        FaultKind::ViaBad,
        FaultKind::ViasMany,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::BareCarriageReturn => "bare_carriage_return",
            FaultKind::BareLineFeed => "bare_line_feed",
            FaultKind::BodyLong => "body_long",
            FaultKind::CallIdBad => "call_id_bad",
            FaultKind::ContactBad => "contact_bad",
            FaultKind::ContactsMany => "contacts_many",
            FaultKind::ContentLengthBad => "content_length_bad",
            FaultKind::ContentLengthRepeated => "content_length_repeated",
            FaultKind::ContentLengthMissing => "content_length_missing",
            FaultKind::CSeqBad => "cseq_bad",
            FaultKind::CSeqMismatch => "cseq_mismatch",
            FaultKind::FromBad => "from_bad",
            FaultKind::HeadLong => "head_long",
            FaultKind::HeaderLineLong => "header_line_long",
            FaultKind::HeaderNameBad => "header_name_bad",
            FaultKind::HeadersMany => "headers_many",
            FaultKind::HeaderMissing => "header_missing",
            FaultKind::HeaderRepeated => "header_repeated",
            FaultKind::MaxForwardsBad => "max_forwards_bad",
            FaultKind::Nul => "nul",
            FaultKind::ParametersMany => "parameters_many",
            FaultKind::RequestLineBad => "request_line_bad",
            FaultKind::RequestUriBad => "request_uri_bad",
            FaultKind::RouteBad => "route_bad",
            FaultKind::RoutesMany => "routes_many",
            FaultKind::StartLineBad => "start_line_bad",
            FaultKind::StartLineFolded => "start_line_folded",
            FaultKind::StartLineLong => "start_line_long",
            FaultKind::StatusBad => "status_bad",
            FaultKind::ToBad => "to_bad",
            FaultKind::UriBad => "uri_bad",
            FaultKind::UriLong => "uri_long",
            FaultKind::VersionUnsupported => "version_unsupported",
            FaultKind::ViaBad => "via_bad",
            FaultKind::ViasMany => "vias_many",
        }
    }

    /// The one answer to a request with this fault.
    pub const fn status(self) -> u16 {
        match self {
            FaultKind::BodyLong => 413,
            FaultKind::StartLineLong | FaultKind::UriLong => 414,
            FaultKind::VersionUnsupported => 505,
            _ => 400,
        }
    }

    /// Whether the place where the next message begins is unknown: answer if that is possible, then close. True for
    /// every fault that `frame` reports and for no other.
    pub const fn stream_lost(self) -> bool {
        matches!(
            self,
            FaultKind::BareCarriageReturn
                | FaultKind::BareLineFeed
                | FaultKind::BodyLong
                | FaultKind::ContentLengthBad
                | FaultKind::ContentLengthRepeated
                | FaultKind::ContentLengthMissing
                | FaultKind::HeadLong
                | FaultKind::HeaderLineLong
                | FaultKind::HeaderNameBad
                | FaultKind::HeadersMany
                | FaultKind::Nul
                | FaultKind::StartLineBad
                | FaultKind::StartLineFolded
                | FaultKind::StartLineLong
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_once_in_all_with_a_name_of_its_own() {
        for (place, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert!(FaultKind::ALL.iter().filter(|other| other.name() == kind.name()).count() == 1);
            assert!((400..700).contains(&kind.status()));
        }
    }
}
