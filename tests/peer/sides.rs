//! Both ends of TLS for these tests: a certificate made up in memory and a clock that stands.

use std::sync::Arc;
use std::time::Duration;

use ringfront::config::snapshot::{
    Advertised, ClientCertificate, Group, Listener, PathPolicy, Tls, TlsUri, Transport, Transports,
    Zone, ZoneAdvertised,
};
use ringfront::tls::clock::{SetClock, TimeProvider, UnixTime};
use ringfront::tls::identity::self_signed;
use ringfront::tls::{ClientSide, ServerSide, Tickets};

/// January 2027, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

pub fn tls() -> Tls {
    Tls { tls12: true, tls13: true, groups: vec![Group::X25519], ..Tls::default() }
}

/// A server's side for `localhost`, and a client's side that believes in its CA.
pub fn sides(resume: bool) -> (ServerSide, ClientSide) {
    let clock: Arc<dyn TimeProvider> = Arc::new(SetClock::new(NOW));
    let made =
        self_signed(&["localhost"], UnixTime::since_unix_epoch(Duration::from_secs(NOW)), 30)
            .unwrap();
    let listener = Listener {
        name: "backend".into(),
        zone: 0,
        transport: Transport::Tls,
        bind: "127.0.0.1:0".parse().unwrap(),
        advertised: Advertised { transport: Transport::Tls, host: "localhost".into(), port: 5061 },
        proxy_from: Vec::new(),
        identities: vec![made.identity()],
    };
    let zone = Zone {
        name: "core".into(),
        transports: Transports { tcp: true, tls: true },
        advertised: ZoneAdvertised { tcp_v4: None, tcp_v6: None, tls_v4: None, tls_v6: None },
        client_certificate: ClientCertificate::None,
        client_ca: Vec::new(),
        client_names: Vec::new(),
        server_ca: Vec::new(),
        certificate: None,
        allow_from: Vec::new(),
        path: PathPolicy::Off,
        tls_uri: TlsUri::Sips,
        trusted: false,
        strip_headers: Vec::new(),
    };
    let hour = Duration::from_secs(3600);
    let tickets = Tickets::random(clock.clone(), 12 * hour, hour);
    let server = ServerSide::build(&listener, &zone, &tls(), clock.clone(), &tickets).unwrap();
    let authority = made.authority().to_vec();
    let client = ClientSide::for_load("localhost", &[authority], resume, &tls(), clock).unwrap();
    (server, client)
}
