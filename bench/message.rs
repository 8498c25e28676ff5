//! Where a message on a stream ends, as the bench programs need it: by Content-Length alone.
//! Owns nothing. Never checks anything.

use memchr::memmem;

/// Bytes of a ping: CRLFCRLF (RFC 5626 4.4.1).
pub const PING: usize = 4;

/// Length of the blank lines at the front: a ping, or one that stands before a message. `None`: there
/// is none, or more must be read to tell.
pub fn starts_blank(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\r', b'\n', b'\r', b'\n', ..] => Some(PING),
        [b'\r', b'\n', b'\r'] | [b'\r', b'\n'] => None,
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

/// Length of the first message in `bytes`, once it is whole.
pub fn message_len(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let name = b"\r\nContent-Length:";
    let body = memmem::find(&bytes[..head], name).map_or(0, |at| {
        let digits = bytes[at + name.len()..].iter().skip_while(|byte| **byte == b' ');
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
    });
    (bytes.len() >= head + body).then_some(head + body)
}
