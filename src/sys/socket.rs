//! Listening sockets: one for each worker and address, sharing the port by SO_REUSEPORT.
//! Owns the options that accepted connections inherit. Never accepts, never reads configuration.
//! Invariant: every socket made here is a stream socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::StartUpFault;
use crate::base::limits;

/// One listening socket and the address that it is bound to.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// A listener inherited from a predecessor or a supervisor; it must be bound and listening.
    pub fn adopt(socket: OwnedFd) -> io::Result<Listener> {
        let socket = Socket::from(socket);
        let address = bound_address(&socket)?;
        Ok(Listener { socket: socket.into(), address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Makes `workers` listeners of one address, all bound to the same port, also when that is 0. An
/// IPv6 listener takes IPv6 only. Refuses a port that another process listens on, though
/// SO_REUSEPORT would share it with one of the same user.
pub fn listen(address: SocketAddr, workers: u16) -> Result<Vec<Listener>, StartUpFault> {
    let fault = |error: io::Error| explain(address, &error);
    // Without SO_REUSEPORT, so that a second front-end by mistake is found out.
    let alone = stream_socket(address).map_err(fault)?;
    alone.bind(&address.into()).map_err(fault)?;
    let address = bound_address(&alone).map_err(fault)?;
    drop(alone);
    (0..workers).map(|_| listen_shared(address).map_err(fault)).collect()
}

fn listen_shared(address: SocketAddr) -> io::Result<Listener> {
    let socket = stream_socket(address)?;
    socket.set_reuse_port(true)?;
    // Inherited by what is accepted, so that no operation per connection is needed.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(limits::KEEPALIVE_IDLE)
        .with_interval(limits::KEEPALIVE_INTERVAL)
        .with_retries(limits::KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(limits::UNACKNOWLEDGED))?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    let address = bound_address(&socket)?;
    Ok(Listener { socket: socket.into(), address })
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bound_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// Why `address` cannot be listened on, in four lines.
pub fn explain(address: SocketAddr, error: &io::Error) -> StartUpFault {
    let port = address.port();
    let (cause, cure) = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => (
            format!("another process listens on port {port}"),
            format!("find it with: ss -ltnp 'sport = :{port}'; stop it, or change bind"),
        ),
        Some(libc::EACCES) => (
            format!("port {port} is below net.ipv4.ip_unprivileged_port_start"),
            "give CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or use another port".into(),
        ),
        Some(libc::EADDRNOTAVAIL) => (
            "no interface of this host has that address".to_owned(),
            "compare bind with: ip address; or bind a wildcard and set advertise".to_owned(),
        ),
        Some(libc::EAFNOSUPPORT) => (
            "this host has no IPv6".to_owned(),
            "remove the IPv6 address from bind, or load the ipv6 module".to_owned(),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (
            "the process or the host has no descriptor left".to_owned(),
            "raise LimitNOFILE= (systemd), ulimit -n, or fs.file-max".to_owned(),
        ),
        _ => ("unknown".to_owned(), "see bind(2) and listen(2)".to_owned()),
    };
    StartUpFault {
        what: format!("cannot listen: {}", crate::sys::probe::text(error)),
        place: format!("address {address}"),
        cause,
        cure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_that_the_kernel_chose() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listeners = listen(address.parse().unwrap(), 3).unwrap();
            assert_ne!(listeners[0].address().port(), 0);
            assert!(listeners.iter().all(|one| one.address() == listeners[0].address()));
        }
    }

    #[test]
    fn both_families_share_a_port() {
        let four = listen("0.0.0.0:0".parse().unwrap(), 1).unwrap();
        let six = SocketAddr::new("::".parse().unwrap(), four[0].address().port());
        assert!(listen(six, 1).is_ok());
    }

    #[test]
    fn a_port_in_use_says_who_to_look_for() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let fault = listen(first[0].address(), 1).unwrap_err();
        assert_eq!(fault.what, "cannot listen: Address already in use");
        assert!(fault.cure.contains(&first[0].address().port().to_string()));
        assert_eq!(fault.to_string().lines().count(), 4);
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_a_cure() {
        let fault = listen("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert!(fault.cause.contains("no interface"), "{fault}");
    }
}
