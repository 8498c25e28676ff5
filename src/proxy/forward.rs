//! What is changed in a message on its way: RFC 3261 16.6 for requests, 16.7 for responses, as one Patch each.
//! Owns nothing. Never picks a target, never sends.
//! Invariant: bytes that no rule names leave as they came, in order.

use crate::config::snapshot::{Family, PathPolicy, Transport};
use crate::sip::text::may_hold;
use crate::sip::{Message, Method, Name, Parts, Patch, Range32, ResponseParts, Start};

use super::connection::Source;
use super::route::{Rewrite, Routed};
use super::settings::{Face, Settings};
use super::token::{BRANCH_TEXT, FlowId, PeerId};

/// Max-Forwards where there was none (RFC 3261 16.6 step 3).
const MAX_FORWARDS: u32 = 70;
/// Max-Breadth where there was none, and the most that passes (RFC 5393 5.3.3).
const MAX_BREADTH: u32 = 60;

/// The side a request leaves by.
pub struct Way<'w> {
    pub zone: u16,
    pub transport: Transport,
    pub family: Family,
    pub branch: &'w [u8; BRANCH_TEXT],
    /// The client-side connection of the dialog, and its backend: what a route token says.
    pub dialog_flow: FlowId,
    pub dialog_backend: PeerId,
}

/// The edits of a request (RFC 3261 16.6).
pub fn request(
    settings: &Settings,
    parts: &Parts<'_>,
    source: &Source,
    routed: &Routed<'_>,
    way: &Way<'_>,
    patch: &mut Patch<'_>,
) {
    let message = patch.message();
    let out = settings.face(way.zone, way.transport, way.family);
    patch.push_via_with(|writer| {
        writer.push(&out.via);
        writer.push(way.branch);
    });
    patch.set_received_rport(&parts.via, source.peer.ip().to_canonical(), source.peer.port());
    hops(message, parts, patch);
    rewrite(message, routed, patch);
    let method = message.method();
    if method == Method::Register {
        path(settings, message, source, out, patch);
    } else if method.dialog_forming() && parts.to.tag().is_none() {
        record_route(settings, message, source, out, way, patch);
    }
    let strip = settings.strip(source.zone);
    if !strip.is_empty() {
        patch.remove_headers(strip);
    }
    patch.plain_content_length();
}

fn hops(message: &Message<'_>, parts: &Parts<'_>, patch: &mut Patch<'_>) {
    patch.set_max_forwards(parts.max_forwards.map_or(MAX_FORWARDS, |hops| hops.saturating_sub(1)));
    let breadth = message.first(Name::MaxBreadth).map(|header| message.value(header));
    let breadth = breadth.and_then(crate::sip::text::decimal);
    let fits = breadth.is_some_and(|breadth| breadth <= u64::from(MAX_BREADTH));
    if !fits || message.count(Name::MaxBreadth) > 1 {
        let breadth =
            breadth.map_or(MAX_BREADTH, |breadth| breadth.min(u64::from(MAX_BREADTH)) as u32);
        patch.set_max_breadth(breadth);
    }
}

/// Own values off the top of Route, and what strict routers ask for.
fn rewrite(message: &Message<'_>, routed: &Routed<'_>, patch: &mut Patch<'_>) {
    match &routed.rewrite {
        Rewrite::Keep => {
            if routed.own_routes > 0 {
                patch.remove_values(Name::Route, routed.own_routes);
            }
        }
        Rewrite::Text(uri) => {
            patch.replace_request_uri(uri);
            if routed.own_routes > 0 {
                patch.remove_values(Name::Route, routed.own_routes);
            }
        }
        Rewrite::FromLastRoute(uri) => {
            patch.replace_request_uri(uri);
            remove_last_route(message, routed.own_routes, patch);
        }
        Rewrite::ToStrictRouter(uri) => {
            if let Some(own) = message.request_uri_span() {
                patch.append_route(&[b"<", message.text(own), b">"].concat());
            }
            patch.replace_request_uri(uri);
            patch.remove_values(Name::Route, routed.own_routes + 1);
        }
    }
}

/// The last Route value, and the first `own` ones.
fn remove_last_route(message: &Message<'_>, own: usize, patch: &mut Patch<'_>) {
    let total = message.values(Name::Route).count();
    if own + 1 >= total {
        return patch.remove_values(Name::Route, total);
    }
    if own > 0 {
        patch.remove_values(Name::Route, own);
    }
    let mut values = message.values(Name::Route).skip(total - 2);
    if let (Some(kept), Some(last)) = (values.next(), values.next()) {
        if last.first_in_row {
            patch.delete(message.headers()[last.header].line());
        } else {
            patch.delete(Range32::new(kept.span.end, last.span.end));
        }
    }
}

/// Our Path on a REGISTER (RFC 3327), with a token of the flow it came on (RFC 5626 5.1).
fn path(
    settings: &Settings,
    message: &Message<'_>,
    source: &Source,
    out: &Face,
    patch: &mut Patch<'_>,
) {
    let wanted = match settings.path_policy(source.zone) {
        PathPolicy::Always => true,
        PathPolicy::Supported => {
            message.has_option(Name::Supported, b"path")
                || message.has_option(Name::Require, b"path")
        }
        PathPolicy::Off => false,
    };
    if !wanted || source.trusted {
        return;
    }
    // Only the first hop may promise outbound (RFC 5626 5.1): one Via, and a Contact that has a reg-id.
    let outbound = message.values(Name::Via).nth(1).is_none()
        && message.values(Name::Contact).any(|contact| {
            crate::sip::NameAddr::parse(contact.bytes).is_ok_and(|it| it.param("reg-id").is_some())
        });
    let token = settings.token_keys.write_flow(source.flow);
    patch.prepend_header_with(Name::Path, |writer| {
        writer.push(&out.uri_before);
        writer.push(&token);
        writer.push(&out.uri_after);
        writer.push(if outbound { b";ob>" } else { b">" });
    });
}

/// One Record-Route, or two where the sides look different (RFC 5658): the outgoing side's stands on top.
fn record_route(
    settings: &Settings,
    message: &Message<'_>,
    source: &Source,
    out: &Face,
    way: &Way<'_>,
    patch: &mut Patch<'_>,
) {
    let Ok(call_id) = message.call_id() else { return };
    let token = settings.token_keys.write_route(way.dialog_flow, way.dialog_backend, call_id);
    let mut insert = |face: &Face| {
        patch.prepend_header_with(Name::RecordRoute, |writer| {
            writer.push(&face.uri_before);
            writer.push(&token);
            writer.push(&face.uri_after);
            writer.push(b">");
        });
    };
    let incoming = settings.face(source.zone, source.transport, source.family());
    insert(out);
    if incoming != out {
        insert(incoming);
    }
}

/// The edits of a response (RFC 3261 16.7): our Via off; what the neighbour asked for keepalives answered.
pub fn response(settings: &Settings, parts: &ResponseParts<'_>, patch: &mut Patch<'_>) {
    patch.pop_top_via();
    keep(patch.message(), parts, settings.keepalive(), patch);
    patch.plain_content_length();
}

/// RFC 6223 4.4: a neighbour that sent a bare `keep` gets a value, in the responses that may carry one; values that
/// others put into lower Vias are taken away. Flow-Timer (RFC 5626 5.4) says the same time.
fn keep(message: &Message<'_>, parts: &ResponseParts<'_>, seconds: &[u8], patch: &mut Patch<'_>) {
    let method = Method::from_bytes(parts.cseq.method);
    let asked = message.below_top_via(parts.via_end).any(|text| may_hold(text, b"keep", 0x20));
    if !asked && method != Method::Register {
        return;
    }
    let may_carry = matches!(method, Method::Register | Method::Invite | Method::Subscribe);
    for (depth, via) in message.vias().skip(1).enumerate() {
        let Ok(via) = via else { return };
        let Some(parameter) = via.keep_parameter() else { continue };
        let neighbour = depth == 0 && may_carry;
        if neighbour || parameter.value.is_some() {
            patch.replace_with(parameter.whole, |writer| {
                writer.push(b";keep");
                if neighbour {
                    writer.push(b"=");
                    writer.push(seconds);
                }
            });
        }
    }
    let success = matches!(message.start(), Start::Response { status: 200..=299, .. });
    if success
        && method == Method::Register
        && message.has_option(Name::Require, b"outbound")
        && message.first(Name::FlowTimer).is_none()
    {
        patch.prepend_header(Name::FlowTimer, seconds);
    }
}
