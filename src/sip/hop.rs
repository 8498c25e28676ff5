//! The two requests that an element makes for the next hop alone: the ACK of a failure (RFC 3261 17.1.1.3) and CANCEL
//! (9.1). Built from the request as it was sent. Never policy: when one is due is the transaction's to know.

use super::message::{Message, Start};
use super::name::{Method, Name};

/// Appends the ACK or the CANCEL that belongs to `sent`, whose topmost Via is ours: Request-URI, that Via alone, From,
/// Call-ID, the number of CSeq and all of Route are those of `sent`; To is that of `response` where there is one (the
/// ACK). No body, no Require.
pub fn hop_by_hop(
    sent: &Message<'_>,
    method: Method,
    response: Option<&Message<'_>>,
    out: &mut Vec<u8>,
) {
    let Start::Request { uri, .. } = sent.start() else { return };
    let name = method.name().as_bytes();
    let mut push = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    push(&[name, b" ", uri, b" SIP/2.0\r\n"]);
    if let Some(via) = sent.values(Name::Via).next() {
        push(&[b"Via: ", via.bytes, b"\r\n"]);
    }
    push(&[b"Max-Forwards: 70\r\n"]);
    for (_, route) in sent.rows(Name::Route) {
        push(&[sent.text(route.line())]);
    }
    let copy = |message: &Message<'_>, name| message.first(name).map(|it| it.line());
    for (message, header) in
        [(sent, Name::From), (response.unwrap_or(sent), Name::To), (sent, Name::CallId)]
    {
        if let Some(line) = copy(message, header) {
            push(&[message.text(line)]);
        }
    }
    let number = sent.cseq().map_or(0, |cseq| cseq.number).to_string();
    push(&[b"CSeq: ", number.as_bytes(), b" ", name, b"\r\nContent-Length: 0\r\n\r\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{FrameLimits, FrameState, Framed, frame};

    const INVITE: &[u8] = b"INVITE sip:bob@192.0.2.7 SIP/2.0\r\n\
        Via: SIP/2.0/TCP edge:5060;branch=z9hG4bKours, SIP/2.0/TCP phone;branch=z9hG4bKtheirs\r\n\
        Record-Route: <sip:edge;lr>\r\n\
        Route: <sip:one;lr>\r\nRoute: <sip:two;lr>,\r\n <sip:three;lr>\r\n\
        f: <sip:alice@x>;tag=a\r\nTo: <sip:bob@x>\r\nCall-ID: c1\r\nCSeq: 007 INVITE\r\n\
        Require: 100rel\r\nMax-Forwards: 12\r\nContent-Length: 3\r\n\r\nsdp";

    fn read(bytes: &[u8]) -> Message<'_> {
        match frame(bytes, &mut FrameState::default(), &FrameLimits::default()) {
            Ok(Framed::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    /// 3261-9.1-a, 3261-17-b
    #[test]
    fn cancel_and_ack_repeat_what_the_next_hop_knows_them_by() {
        let mut cancel = Vec::new();
        hop_by_hop(&read(INVITE), Method::Cancel, None, &mut cancel);
        assert_eq!(
            String::from_utf8(cancel).unwrap(),
            "CANCEL sip:bob@192.0.2.7 SIP/2.0\r\n\
             Via: SIP/2.0/TCP edge:5060;branch=z9hG4bKours\r\nMax-Forwards: 70\r\n\
             Route: <sip:one;lr>\r\nRoute: <sip:two;lr>,\r\n <sip:three;lr>\r\n\
             f: <sip:alice@x>;tag=a\r\nTo: <sip:bob@x>\r\nCall-ID: c1\r\nCSeq: 7 CANCEL\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let busy = b"SIP/2.0 486 Busy\r\nVia: SIP/2.0/TCP edge:5060;branch=z9hG4bKours\r\n\
            From: <sip:alice@x>;tag=a\r\nt: <sip:bob@x>;tag=b\r\nCall-ID: c1\r\nCSeq: 7 INVITE\r\n\
            Content-Length: 0\r\n\r\n";
        let mut ack = Vec::new();
        hop_by_hop(&read(INVITE), Method::Ack, Some(&read(busy)), &mut ack);
        let ack = String::from_utf8(ack).unwrap();
        assert!(ack.starts_with("ACK sip:bob@192.0.2.7 SIP/2.0\r\n"), "{ack}");
        assert!(ack.contains("\r\nt: <sip:bob@x>;tag=b\r\n") && ack.contains("CSeq: 7 ACK\r\n"));
        assert!(!ack.contains("theirs") && !ack.contains("Require"), "{ack}");
    }
}
