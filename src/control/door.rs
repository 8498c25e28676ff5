//! Who may speak to the admin interface: connections, their number and patience, owners, hosts, origins, tokens.
//! Owns the rules, and nothing that lies behind them. Never trusts a browser: a page from elsewhere must not reach us
//! through a name that it has made to point here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use zeroize::Zeroizing;

use super::problem::Problem;

/// Open connections of one listener: dashboards, scrapers and a script or two; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// A connection on which nothing moves for so long is closed: longer than the usual scrape interval's half.
const QUIET_MAX: Duration = Duration::from_secs(30);

/// After a failed accept: long enough for descriptors to come free, short enough for an operator not to notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the admin interface listens.
pub enum Door {
    Tcp(TcpListener),
    /// Only this user and root get in.
    Unix(UnixListener, u32),
}

/// A listener that hands out a limited number of connections, each with limited patience.
pub struct Guarded {
    door: Door,
    permits: Arc<Semaphore>,
}

impl Guarded {
    pub fn new(door: Door) -> Self {
        Guarded { door, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    async fn accept_one(&self) -> io::Result<Option<Stream>> {
        match &self.door {
            Door::Tcp(listener) => Ok(Some(Stream::Tcp(listener.accept().await?.0))),
            Door::Unix(listener, owner) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                if user != *owner && user != 0 {
                    tracing::warn!(user, "admin connection of another user refused");
                    return Ok(None);
                }
                Ok(Some(Stream::Unix(stream)))
            }
        }
    }
}

impl Listener for Guarded {
    type Io = Watched;
    type Addr = ();

    async fn accept(&mut self) -> (Watched, ()) {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.accept_one().await {
                Ok(Some(stream)) => return (Watched::new(stream, permit), ()),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "admin connection lost before it was accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that ends when nothing moves on it for `QUIET_MAX`.
pub struct Watched {
    stream: Stream,
    quiet: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Watched {
    fn new(stream: Stream, permit: OwnedSemaphorePermit) -> Self {
        Watched { stream, quiet: Box::pin(tokio::time::sleep(QUIET_MAX)), _permit: permit }
    }

    /// Passes on what is ready, and turns waiting for too long into an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            let until = Instant::now() + QUIET_MAX;
            self.quiet.as_mut().reset(until);
            return poll;
        }
        match self.quiet.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        self.watch(cx, poll)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.watch(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Which names a request may call us by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// The socket is no network: nobody's browser reaches it.
    Any,
    /// `localhost` and addresses.
    Addresses,
    /// Those, and the name of this host, alone or with a domain.
    AddressesAnd(String),
}

/// What a request must show before it is looked at.
#[derive(Clone, Debug)]
pub struct Rules {
    hosts: Hosts,
    token: Option<Arc<Zeroizing<Vec<u8>>>>,
}

impl Rules {
    /// For a UNIX socket: the kernel says who is there.
    pub fn unix() -> Self {
        Rules { hosts: Hosts::Any, token: None }
    }

    /// For an address that changes things: a bearer token, and a name that is ours. `host_name` is that of the host.
    pub fn admin(listen: SocketAddr, host_name: &str, token: Zeroizing<Vec<u8>>) -> Self {
        let hosts = match listen.ip().is_loopback() {
            true => Hosts::Addresses,
            false => Hosts::AddressesAnd(host_name.to_ascii_lowercase()),
        };
        Rules { hosts, token: Some(Arc::new(token)) }
    }

    /// For an address that only shows things. On a loopback address a page of elsewhere must not read them by a name
    /// of its own; on any other address they are shown to the network anyway, under whatever name it uses.
    pub fn metrics(listen: SocketAddr) -> Self {
        let hosts = if listen.ip().is_loopback() { Hosts::Addresses } else { Hosts::Any };
        Rules { hosts, token: None }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.hosts.allow(host) {
            let detail = "the Host header names neither an address nor this host";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let own = format!("http://{host}");
            if !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) {
                return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin asks"));
            }
        }
        match &self.token {
            Some(token) if !bears(headers, token) => {
                let detail = "give the token of admin.token_file: Authorization: Bearer ...";
                Err(Problem::new(StatusCode::UNAUTHORIZED, detail))
            }
            _ => Ok(()),
        }
    }
}

impl Hosts {
    fn allow(&self, host: &str) -> bool {
        let name = host_part(host);
        let plain = name.trim_start_matches('[').trim_end_matches(']');
        let address = plain.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost");
        match self {
            Hosts::Any => true,
            Hosts::Addresses => address,
            Hosts::AddressesAnd(own) => {
                let name = name.to_ascii_lowercase();
                let first_label = name.split('.').next().unwrap_or_default();
                let own_label = own.split('.').next().unwrap_or_default();
                address || (!own_label.is_empty() && (name == *own || first_label == own_label))
            }
        }
    }
}

/// `host` of `host:port`, `[v6]:port`, or either without port.
fn host_part(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            // `::1` without brackets is no host of HTTP, but its tail must not be taken for a port.
            if name.contains(':') && !name.starts_with('[') { host } else { name }
        }
        _ => host,
    }
}

/// Compares in a time that says nothing of how much was right.
fn bears(headers: &HeaderMap, token: &[u8]) -> bool {
    let value = headers.get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    match value.split_at_checked(7) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"Bearer ") => {
            aws_lc_rs::constant_time::verify_slices_are_equal(given, token).is_ok()
        }
        _ => false,
    }
}

/// The rules as a layer around all routes.
pub async fn guard(rules: Rules, request: Request, next: Next) -> Response {
    match rules.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(rules: &Rules, pairs: &[(&'static str, &str)]) -> u16 {
        rules.check(&headers(pairs)).err().map_or(200, |problem| problem.status().as_u16())
    }

    #[test]
    fn a_loopback_listener_answers_to_addresses_only() {
        let rules = Rules::metrics("127.0.0.1:9060".parse().unwrap());
        for (host, expected) in [
            ("127.0.0.1:9060", 200),
            ("localhost:9060", 200),
            ("LOCALHOST", 200),
            ("[::1]:9060", 200),
            ("::1", 200),
            ("evil.example:9060", 421),
            ("localhost.evil.example", 421),
            ("", 421),
        ] {
            assert_eq!(status(&rules, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status(&rules, &[]), 421);
        let open = Rules::metrics("10.0.0.1:9060".parse().unwrap());
        assert_eq!(status(&open, &[("host", "edge-1.example.com:9060")]), 200);
    }

    #[test]
    fn a_page_of_another_origin_is_refused_everywhere() {
        for rules in [Rules::unix(), Rules::metrics("127.0.0.1:9060".parse().unwrap())] {
            let host = ("host", "127.0.0.1:9060");
            assert_eq!(status(&rules, &[host, ("origin", "http://127.0.0.1:9060")]), 200);
            assert_eq!(status(&rules, &[host, ("origin", "http://evil.example")]), 403);
            assert_eq!(status(&rules, &[host, ("origin", "null")]), 403);
        }
    }

    #[test]
    fn an_admin_address_wants_the_token() {
        let token = Zeroizing::new(b"s3cret".to_vec());
        let rules = Rules::admin("10.0.0.1:9061".parse().unwrap(), "edge-1", token);
        let host = ("host", "edge-1.example.com:9061");
        for (value, expected) in [
            ("Bearer s3cret", 200),
            ("bearer s3cret", 200),
            ("Bearer s3cre", 401),
            ("Bearer s3cret ", 401),
            ("Basic s3cret", 401),
            ("Bearer", 401),
        ] {
            assert_eq!(status(&rules, &[host, ("authorization", value)]), expected, "{value}");
        }
        assert_eq!(status(&rules, &[host]), 401);
        let foreign = ("host", "edge-2.example.com");
        assert_eq!(status(&rules, &[foreign, ("authorization", "Bearer s3cret")]), 421);
    }
}
