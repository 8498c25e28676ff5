//! Local responses built from a request (RFC 3261 8.2.6). Never policy: the caller says the status and what is extra.

use std::fmt;
use std::net::IpAddr;

use super::message::{Header, Message};
use super::name::Name;
use super::patch::stamp;
use super::text::Range32;
use super::via::Via;

/// Appends a response to `request` to `out`: all Vias in order, the topmost with `received` and `rport` as when
/// forwarding; From, To with `to_tag` unless it has a tag or the status is 100, Call-ID, CSeq, for 100 Timestamp,
/// `extra` headers, Content-Length 0. Headers are copied as they came. What the request lacks or says unreadably is
/// left out or copied as it is, so that a bad request can be answered, too.
pub fn reply(
    request: &Message<'_>,
    status: u16,
    reason_phrase: Option<&str>,
    extra: &[(&str, &[u8])],
    to_tag: &[u8],
    received: Option<(IpAddr, u16)>,
    out: &mut Vec<u8>,
) {
    let mut text = Text(out);
    text.push(b"SIP/2.0 ");
    text.format(format_args!("{status:03} "));
    text.push(reason_phrase.unwrap_or(reason(status)).as_bytes());
    text.push(b"\r\n");
    vias(request, received, &mut text);
    copy_first(request, Name::From, &mut text);
    to(request, status, to_tag, &mut text);
    copy_first(request, Name::CallId, &mut text);
    copy_first(request, Name::CSeq, &mut text);
    if status == 100 {
        copy_first(request, Name::Timestamp, &mut text);
    }
    for (name, value) in extra {
        text.push(name.as_bytes());
        text.push(b": ");
        text.push(value);
        text.push(b"\r\n");
    }
    text.push(b"Content-Length: 0\r\n\r\n");
}

/// The response under construction.
struct Text<'o>(&'o mut Vec<u8>);

impl Text<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn format(&mut self, arguments: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(self, arguments).expect("a text in memory takes everything");
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

fn copy_first(request: &Message<'_>, name: Name, text: &mut Text<'_>) {
    if let Some(header) = request.first(name) {
        text.push(request.text(header.line()));
    }
}

fn vias(request: &Message<'_>, received: Option<(IpAddr, u16)>, text: &mut Text<'_>) {
    let mut rows = request.rows(Name::Via).map(|(_, header)| *header);
    if let Some(top) = rows.next() {
        match (received, request.top_via()) {
            (Some((ip, port)), Ok(via)) => top_via(request, top, &via, (ip, port), text),
            _ => text.push(request.text(top.line())),
        }
    }
    rows.for_each(|header| text.push(request.text(header.line())));
}

fn top_via(
    request: &Message<'_>,
    top: Header,
    via: &Via<'_>,
    from: (IpAddr, u16),
    text: &mut Text<'_>,
) {
    let mut stamps = smallvec::SmallVec::<[_; 2]>::new();
    stamp(via, from.0, from.1, |range, stamp| stamps.push((range, stamp)));
    stamps.sort_by_key(|(range, _)| range.start);
    let mut at = top.line().start;
    for (range, stamp) in stamps {
        text.push(request.text(Range32::new(at, range.start)));
        stamp.write(&mut |piece| text.push(piece));
        at = range.end;
    }
    text.push(request.text(Range32::new(at, top.line().end)));
}

fn to(request: &Message<'_>, status: u16, to_tag: &[u8], text: &mut Text<'_>) {
    let Some(header) = request.first(Name::To) else { return };
    let has_tag = match request.to_tag() {
        Ok(tag) => tag.is_some(),
        Err(_) => true,
    };
    if has_tag || status == 100 {
        return text.push(request.text(header.line()));
    }
    let end = request.value_span(header).end;
    text.push(request.text(Range32::new(header.line().start, end)));
    text.push(b";tag=");
    text.push(to_tag);
    text.push(request.text(Range32::new(end, header.line().end)));
}

/// The reason phrase of a status code (RFC 3261 21 and the IANA registry).
// tidy: allow(length) one line for each status
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        424 => "Bad Location Information",
        425 => "Bad Alert Message",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        437 => "Unsupported Credential",
        438 => "Invalid Identity Header",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        469 => "Bad Info Package",
        470 => "Consent Needed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => "Unknown",
    }
}
