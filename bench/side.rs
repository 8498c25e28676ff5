//! The TLS side of a bench listener, with a certificate made for the occasion.

use std::sync::Arc;
use std::time::Duration;

use ringfront::config::snapshot::{
    Advertised, ClientCertificate, Group, Listener, PathPolicy, Tls, TlsUri, Transport, Transports,
    Zone, ZoneAdvertised,
};
use ringfront::tls::clock::TimeProvider;
use ringfront::tls::identity::self_signed;
use ringfront::tls::{ServerSide, Tickets};
use rustls::time_provider::DefaultTimeProvider;

/// A server's side as the front-end's defaults make it; nobody vouches for its certificate.
pub fn self_made() -> ServerSide {
    let clock: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
    let now = clock.current_time().expect("a clock");
    let made = self_signed(&["localhost", "127.0.0.1", "::1"], now, 2).expect("a certificate");
    let listener = Listener {
        name: "bench".into(),
        zone: 0,
        transport: Transport::Tls,
        bind: "127.0.0.1:0".parse().expect("an address"),
        advertised: Advertised { transport: Transport::Tls, host: "localhost".into(), port: 5061 },
        proxy_from: Vec::new(),
        identities: vec![made.identity()],
    };
    let zone = Zone {
        name: "bench".into(),
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
    let groups = vec![Group::X25519MlKem768, Group::X25519];
    let tls = Tls { groups, ..Tls::default() };
    let hour = Duration::from_secs(3600);
    let tickets = Tickets::random(clock.clone(), 12 * hour, hour);
    let built = ServerSide::build(&listener, &zone, &tls, clock, &tickets);
    built.unwrap_or_else(|faults| panic!("{faults:?}"))
}
