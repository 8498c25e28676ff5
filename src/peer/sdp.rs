//! The session that the embedded callee agrees to: one audio stream that carries nothing (RFC 4566, RFC 3264).
//! Never opens a media port: port 9 is discard, the direction inactive.

use std::fmt::Write;
use std::net::Ipv6Addr;

/// Media lines that are answered; an offer with more is not a phone's.
const MEDIA_MAX: usize = 16;

/// The answer to `offer`, or an offer of our own when that is empty. `host` as it stands in a URI; a name becomes the
/// address that says nothing. `None`: the offer has no audio over RTP/AVP that we could agree to.
pub fn answer(offer: &[u8], host: &str, version: u32) -> Option<String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = if bare.parse::<Ipv6Addr>().is_ok() {
        format!("IN IP6 {bare}")
    } else if bare.parse::<std::net::Ipv4Addr>().is_ok() {
        format!("IN IP4 {bare}")
    } else {
        "IN IP4 0.0.0.0".to_owned()
    };
    let mut text =
        format!("v=0\r\no=ringfront 1 {version} {address}\r\ns=-\r\nc={address}\r\nt=0 0\r\n");
    if offer.is_empty() {
        text.push_str("m=audio 9 RTP/AVP 0 8\r\na=inactive\r\n");
        return Some(text);
    }
    let offer = std::str::from_utf8(offer).ok()?;
    let mut agreed = false;
    for media in offer.split("\nm=").skip(1).take(MEDIA_MAX) {
        agreed |= media_line(media, agreed, &mut text)?;
    }
    agreed.then_some(text)
}

/// One media line of the answer, for the part of the offer that begins behind `m=`. Says whether the stream is agreed
/// to; `None`: the line cannot be read.
fn media_line(media: &str, agreed: bool, text: &mut String) -> Option<bool> {
    let mut words = media.lines().next()?.split_ascii_whitespace();
    let (kind, port, protocol, format) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    let wanted = kind == "audio" && protocol == "RTP/AVP" && port != "0" && !agreed;
    if !wanted {
        let _ = write!(text, "m={kind} 0 {protocol} {format}\r\n");
        return Some(false);
    }
    let _ = write!(text, "m=audio 9 RTP/AVP {format}\r\n");
    let map = format!("a=rtpmap:{format} ");
    if let Some(line) = media.lines().find(|line| line.starts_with(&map)) {
        let _ = write!(text, "{line}\r\n");
    }
    text.push_str("a=inactive\r\n");
    Some(true)
}

/// Gives a reply that was written without a body (`sip::reply`) this one.
pub fn attach(body: &str, reply: &mut Vec<u8>) {
    let end = b"Content-Length: 0\r\n\r\n";
    assert!(reply.ends_with(end), "a reply ends with its empty body");
    reply.truncate(reply.len() - end.len());
    let head = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n", body.len());
    reply.extend_from_slice(head.as_bytes());
    reply.extend_from_slice(body.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_audio_stream_is_agreed_to_and_every_line_is_answered() {
        let offer = b"v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
            m=audio 4000 RTP/AVP 96 0\r\na=rtpmap:96 opus/48000/2\r\na=sendrecv\r\n\
            m=video 4002 RTP/AVP 31\r\nm=audio 4004 RTP/SAVP 0\r\n";
        assert_eq!(
            answer(offer, "[::1]", 7).unwrap(),
            "v=0\r\no=ringfront 1 7 IN IP6 ::1\r\ns=-\r\nc=IN IP6 ::1\r\nt=0 0\r\n\
             m=audio 9 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\na=inactive\r\n\
             m=video 0 RTP/AVP 31\r\nm=audio 0 RTP/SAVP 0\r\n"
        );
    }

    #[test]
    fn no_offer_gets_one_and_a_foreign_one_nothing() {
        assert!(answer(b"", "edge.example.com", 1).unwrap().contains("c=IN IP4 0.0.0.0\r\n"));
        assert_eq!(answer(b"v=0\r\nm=video 4002 RTP/AVP 31\r\n", "127.0.0.1", 1), None);
        assert_eq!(answer(b"v=0\r\nm=audio\r\n", "127.0.0.1", 1), None);
        assert_eq!(answer(b"\xff", "127.0.0.1", 1), None);
    }
}
