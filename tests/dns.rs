//! Backends by DNS (RFC 3263, RFC 2782) over TCP: what names lead to, and what becomes of a running front-end when
//! answers change, run out, fail or are nonsense. The name server is a real one on a TCP port; the binary is the real one.

#[expect(dead_code, reason = "TLS and the metrics listener of the default are for first_run")]
mod process;
#[path = "dns/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use process::{FrontEnd, admin, alone, dial, eventually, exchange, skip};
use ringfront::config::snapshot::{NamedPlace, Prefix, Transports};
use ringfront::control::resolve::exchange::{Asker, Fault};
use ringfront::control::resolve::locate::{Found, Lost, Sought, locate};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use server::{Mood, NameServer};

const BOTH: Transports = Transports { tcp: true, tls: true };
const TCP: Transports = Transports { tcp: true, tls: false };
const TLS: Transports = Transports { tcp: false, tls: true };

fn sought(place: NamedPlace, transports: Transports) -> Sought {
    Sought {
        place,
        transports,
        families: [[true; 2]; 2],
        allow_answers: Vec::new(),
        own: vec!["192.0.2.99:5060".parse().unwrap()],
    }
}

fn domain(name: &str) -> NamedPlace {
    NamedPlace::Domain { name: name.into(), transport_written: false }
}

fn look(server: &NameServer, sought: &Sought) -> Result<Found, Lost> {
    look_at(&[server.address], sought)
}

fn look_at(servers: &[SocketAddr], sought: &Sought) -> Result<Found, Lost> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut asker = Asker::new(servers, Duration::from_millis(400));
    runtime.block_on(locate(&mut asker, sought))
}

/// `tcp 192.0.2.1:5060 p10 0.25` for each place.
fn listed(found: &Result<Found, Lost>) -> String {
    let found = match found {
        Ok(found) if found.udp_only => return "udp only".to_owned(),
        Ok(found) => found,
        Err(lost) => return lost.name().to_owned(),
    };
    let places = found.places.iter().map(|place| {
        let transport = place.transport.name();
        format!("{transport} {} p{} {:.2}", place.address, place.priority, place.share)
    });
    places.collect::<Vec<_>>().join("; ")
}

/// The services of one domain for every transport, as a large provider has them.
const PROVIDER: &str = "
    pbx.example 300 NAPTR 10 50 s SIP+D2U _sip._udp.pbx.example
    pbx.example 300 NAPTR 20 50 s SIPS+D2T _sips._tcp.pbx.example
    pbx.example 300 NAPTR 20 60 s SIP+D2T _sip._tcp.pbx.example
    pbx.example 300 NAPTR 20 10 s SIP+D2S _sip._sctp.pbx.example
    pbx.example 300 NAPTR 5 10 u E2U+sip other.example
    _sip._udp.pbx.example 300 SRV 1 1 5060 u.pbx.example
    _sips._tcp.pbx.example 200 SRV 1 30 5061 a.pbx.example
    _sips._tcp.pbx.example 200 SRV 1 10 5071 b.pbx.example
    _sips._tcp.pbx.example 200 SRV 2 0 5061 c.pbx.example
    _sip._tcp.pbx.example 250 SRV 7 1 5060 a.pbx.example
    a.pbx.example 100 A 192.0.2.1
    b.pbx.example 90 A 192.0.2.2
    b.pbx.example 90 AAAA 2001:db8::2
    c.pbx.example 80 A 192.0.2.3
    u.pbx.example 80 A 192.0.2.4
    pbx.example 300 A 192.0.2.5
";

/// 3263-4.1-c, 3263-4.2-a: services of UDP and SCTP are discarded; priorities and weights are those of RFC 2782; the
/// least TTL of the chain counts.
#[test]
fn naptr_chooses_among_the_services_that_are_spoken() {
    let server = NameServer::start(PROVIDER);
    let found = look(&server, &sought(domain("pbx.example"), BOTH));
    assert_eq!(
        listed(&found),
        "tls 192.0.2.1:5061 p1 0.75; tls 192.0.2.2:5071 p1 0.12; \
         tls [2001:db8::2]:5071 p1 0.12; tls 192.0.2.3:5061 p2 1.00"
    );
    let found = found.unwrap();
    assert_eq!((found.ttl, found.udp_discarded), (80, 1));
    assert_eq!(
        listed(&look(&server, &sought(domain("pbx.example"), TCP))),
        "tcp 192.0.2.1:5060 p7 1.00"
    );
    let only_v6 = Sought { families: [[false, true]; 2], ..sought(domain("pbx.example"), TLS) };
    assert_eq!(listed(&look(&server, &only_v6)), "tls [2001:db8::2]:5071 p1 1.00");
}

/// 3263-4.1-d: without NAPTR the services are asked for by name; TLS before TCP; then the bare addresses, TCP by default.
#[test]
fn without_naptr_srv_and_then_addresses() {
    let srv = "
        _sips._tcp.one.example 60 SRV 0 0 5061 h.example
        _sip._tcp.one.example 60 SRV 0 0 5060 h.example
        _sip._tcp.two.example 60 SRV 0 5 5080 h.example
        two.example 60 A 192.0.2.8
        h.example 60 A 192.0.2.7
        three.example 60 A 192.0.2.9
    ";
    let server = NameServer::start(srv);
    for (name, transports, expected) in [
        ("one.example", BOTH, "tls 192.0.2.7:5061 p0 1.00"),
        ("one.example", TCP, "tcp 192.0.2.7:5060 p0 1.00"),
        ("two.example", BOTH, "tcp 192.0.2.7:5080 p0 1.00"),
        ("two.example", TLS, "tls 192.0.2.8:5061 p0 1.00"),
        ("three.example", BOTH, "tcp 192.0.2.9:5060 p0 1.00"),
        ("three.example", TLS, "tls 192.0.2.9:5061 p0 1.00"),
        ("none.example", BOTH, "nothing"),
    ] {
        assert_eq!(listed(&look(&server, &sought(domain(name), transports))), expected, "{name}");
    }
}

/// 3263-4.1-a: with a written transport NAPTR is not asked.
#[test]
fn a_written_transport_leaves_nothing_for_naptr_to_choose() {
    let server = NameServer::start(PROVIDER);
    let place = NamedPlace::Domain { name: "pbx.example".into(), transport_written: true };
    assert_eq!(listed(&look(&server, &sought(place, TCP))), "tcp 192.0.2.1:5060 p7 1.00");
    let place = NamedPlace::Host { name: "b.pbx.example".into(), port: 5099 };
    assert_eq!(
        listed(&look(&server, &sought(place, TCP))),
        "tcp 192.0.2.2:5099 p0 0.50; tcp [2001:db8::2]:5099 p0 0.50"
    );
}

/// Nothing ever follows a service of UDP, however it is dressed.
#[test]
fn answers_that_offer_udp_alone_are_told_apart() {
    let server = NameServer::start(
        "
        a.example 60 NAPTR 10 10 s SIP+D2U _sip._udp.a.example
        a.example 60 A 192.0.2.1
        b.example 60 NAPTR 10 10 s SIP+D2T _sip._udp.b.example
        b.example 60 A 192.0.2.1
        _sip._udp.b.example 60 SRV 0 0 5060 b.example
        _sip._udp.c.example 60 SRV 0 0 5060 c.example
        c.example 60 A 192.0.2.1
        d.example 60 NAPTR 10 10 s SIP+D2S _sip._sctp.d.example
        d.example 60 A 192.0.2.1
        ",
    );
    for (name, expected) in [
        ("a.example", "udp only"),
        ("b.example", "udp only"),
        ("c.example", "udp only"),
        ("d.example", "nothing_spoken"),
    ] {
        assert_eq!(listed(&look(&server, &sought(domain(name), BOTH))), expected, "{name}");
    }
}

/// Whoever forges an answer must not lead us to this host, a cloud's metadata or ourselves.
#[test]
fn addresses_where_no_backend_can_be_are_refused() {
    let mut zone = String::from("_sip._tcp.mixed.example 60 SRV 0 0 5060 good.example\n");
    let bad = [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.99",
    ];
    for address in bad {
        zone.push_str(&format!("bad.example 60 A {address}\n"));
    }
    for address in ["::1", "::", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"]
    {
        zone.push_str(&format!("bad.example 60 AAAA {address}\n"));
    }
    zone.push_str(
        "_sip._tcp.mixed.example 60 SRV 0 0 5060 bad.example\ngood.example 60 A 192.0.2.1\n",
    );
    let server = NameServer::start(&zone);
    let place = NamedPlace::Host { name: "bad.example".into(), port: 5060 };
    assert_eq!(listed(&look(&server, &sought(place.clone(), TCP))), "forbidden");
    let found = look(&server, &sought(domain("mixed.example"), TCP));
    assert_eq!(listed(&found), "tcp 192.0.2.1:5060 p0 1.00");
    assert_eq!(found.unwrap().refused, 14);
    let allowed = vec![Prefix { address: "127.0.0.0".parse().unwrap(), bits: 8 }];
    let allowed = Sought { allow_answers: allowed, ..sought(place, TCP) };
    let found = listed(&look(&server, &allowed));
    assert!(found.contains("127.9.9.9:5060") && !found.contains("169.254"), "{found}");
}

#[test]
fn aliases_are_followed_to_their_end_and_not_in_circles() {
    let server = NameServer::start(
        "
        a.example 500 CNAME b.example
        b.example 7 CNAME c.example
        c.example 600 A 192.0.2.1
        r.example 60 CNAME q.example
        q.example 60 CNAME r.example
        ",
    );
    let host = |name: &str| NamedPlace::Host { name: name.into(), port: 5060 };
    let found = look(&server, &sought(host("a.example"), TCP));
    assert_eq!(listed(&found), "tcp 192.0.2.1:5060 p0 1.00");
    assert_eq!(found.unwrap().ttl, 7);
    assert_eq!(listed(&look(&server, &sought(host("r.example"), TCP))), "aliases");
}

#[test]
fn a_service_that_is_denied_or_without_end_is_bounded() {
    let mut zone = String::from("_sip._tcp.no.example 60 SRV 0 0 0 .\n");
    for number in 0..200 {
        zone.push_str(&format!("_sip._tcp.many.example 60 SRV 0 1 5060 h{number}.example\n"));
        zone.push_str(&format!("h{number}.example 60 A 198.51.100.{number}\n"));
        zone.push_str(&format!("wide.example 60 A 198.51.100.{number}\n"));
    }
    let server = NameServer::start(&zone);
    assert_eq!(listed(&look(&server, &sought(domain("no.example"), TCP))), "denied");
    let many = look(&server, &sought(domain("many.example"), TCP)).unwrap();
    assert_eq!(many.places.len(), 16);
    let wide = NamedPlace::Host { name: "wide.example".into(), port: 5060 };
    assert_eq!(look(&server, &sought(wide, TCP)).unwrap().places.len(), 32);
}

/// Every nonsense that a server can send has its name, and the next server is asked.
#[test]
fn nonsense_is_named_and_the_next_server_is_asked() {
    let zone = "h.example 60 A 192.0.2.1";
    let (bad, good) = (NameServer::start(zone), NameServer::start(zone));
    let place = NamedPlace::Host { name: "h.example".into(), port: 5060 };
    let only_v4 = Sought { families: [[true, false]; 2], ..sought(place, TCP) };
    let mut moods = vec![
        (Mood::Silent, "timeout"),
        (Mood::Fails, "refused"),
        (Mood::Truncates, "truncated"),
        (Mood::OtherId, "garbage"),
        (Mood::OtherQuestion, "garbage"),
        (Mood::Breaks, "closed"),
    ];
    moods
        .extend([0, 1, 11, 12, 13, 40, 500, 65_535].map(|length| (Mood::Noise(length), "garbage")));
    for (mood, expected) in moods {
        bad.mood(mood);
        assert_eq!(listed(&look(&bad, &only_v4)), expected, "{mood:?}");
        let found = look_at(&[bad.address, good.address], &only_v4);
        assert_eq!(listed(&found), "tcp 192.0.2.1:5060 p0 1.00", "{mood:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(look_at(&[nobody], &only_v4).unwrap_err().name(), "unreachable");
    bad.mood(Mood::Closes);
    let both = Sought { families: [[true; 2]; 2], ..only_v4 };
    assert_eq!(listed(&look(&bad, &both)), "tcp 192.0.2.1:5060 p0 1.00", "a connection for each");
    assert_eq!(Fault::NoServer.name(), "no_server");
}

/// An answer with one bit changed is refused, or says something else; it never ends the look-up in a panic, never
/// leads to an address that no answer may hold, and never lasts.
#[test]
fn answers_with_one_bit_changed_are_harmless() {
    let server = NameServer::start(PROVIDER);
    server.mood(Mood::Flips);
    let one = Sought { families: [[true, false]; 2], ..sought(domain("pbx.example"), BOTH) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut found, mut lost) = (0, std::collections::BTreeMap::new());
    for _ in 0..1500 {
        let mut asker = Asker::new(&[server.address], Duration::from_millis(50));
        match runtime.block_on(locate(&mut asker, &one)) {
            Ok(it) => {
                found += 1;
                for place in it.places {
                    let ip = place.address.ip();
                    assert!(ip.is_ipv4() && !ip.is_loopback() && !ip.is_multicast(), "{ip}");
                }
            }
            Err(why) => *lost.entry(why.name()).or_insert(0) += 1,
        }
    }
    assert!(found > 0 && lost.len() > 2, "{found} {lost:?}");
    server.mood(Mood::Answers);
    assert_eq!(look(&server, &one).unwrap().places.len(), 3, "afterwards all is well");
}

// ---- the whole process

/// A SIP server that answers every request with 200 and its own name, and nothing else; over TLS with a certificate.
fn backend(address: &str, name: &'static str, tls: Option<Arc<ServerConfig>>) {
    let listener = TcpListener::bind(address).expect("the backend's port");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tls = tls.clone();
            std::thread::spawn(move || match tls {
                None => answer_all(stream, name),
                Some(config) => {
                    let connection = ServerConnection::new(config).expect("a server");
                    answer_all(StreamOwned::new(connection, stream), name);
                }
            });
        }
    });
}

fn answer_all(mut stream: impl Read + Write, name: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).expect("text");
        let kept = ["via:", "from:", "to:", "call-id:", "cseq:", "record-route:"];
        let mut answer = String::from("SIP/2.0 200 OK\r\n");
        for line in text.lines().skip(1) {
            let lower = line.to_ascii_lowercase();
            if kept.iter().any(|name| lower.starts_with(name)) {
                let untagged = lower.starts_with("to:") && !lower.contains(";tag=");
                answer.push_str(&format!("{line}{}\r\n", if untagged { ";tag=b" } else { "" }));
            }
        }
        answer.push_str(&format!("Server: {name}\r\nContent-Length: 0\r\n\r\n"));
        let _ = stream.write_all(answer.as_bytes());
    }
}

/// A CA in `ca.pem`, and a server with a certificate of it for each of `names`.
fn certified(directory: &Path, names: &[&str]) -> Vec<Arc<ServerConfig>> {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    std::fs::write(directory.join("ca.pem"), pem).expect("written");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let config = |name: &&str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![(*name).to_owned()]);
        let certificate = parameters.expect("parameters").signed_by(&key, &issuer);
        let chain = vec![certificate.expect("a certificate").der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Arc::new(config.expect("a server"))
    };
    names.iter().map(config).collect()
}

fn configuration(directory: &Path, server: &NameServer, backends: &str) -> String {
    let text = format!(
        "[node]\ncores = [0]\n\
         [zone.edge]\ntransports = [\"tcp\"]\n\
         [zone.core]\ntransports = [\"tcp\"]\ntrusted = true\nallow_from = [\"127.0.0.0/8\"]\n\
         [[listener]]\nname = \"edge\"\nzone = \"edge\"\ntransport = \"tcp\"\nbind = \"127.0.0.1:5060\"\n\
         [[pool]]\nname = \"pbx\"\nzone = \"core\"\nbackends = [{backends}]\n\
         [[route]]\nfrom_zone = \"edge\"\npool = \"pbx\"\n\
         [resolver]\nservers = [\"{}\"]\ntimeout = \"500ms\"\nttl_min = \"1s\"\n\
         allow_answers = [\"127.0.0.0/8\"]\n",
        server.address
    );
    let path = directory.join("ringfront.toml");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

fn status(directory: &Path) -> serde_json::Value {
    let (_, _, body) = admin(&directory.join("ringfront-state/admin.sock"), "GET /v1/status");
    serde_json::from_str(&body).expect("JSON")
}

/// Which backend answers, or the status line.
fn answered_by(stream: &mut impl process::Stream, call: &str) -> String {
    let head = exchange(stream, "TCP", "MESSAGE", "sip:bob@example.com", call);
    let server = head.lines().find_map(|line| line.strip_prefix("Server: "));
    server.unwrap_or(head.lines().next().unwrap_or_default()).to_owned()
}

/// One request as it stands, and the head of its response.
fn raw(stream: &mut impl process::Stream, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("written");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("a response"), 1, "closed");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// A request of the dialog `dialog`; `route` holds its Route header, and the INVITE's is empty.
fn in_dialog(method: &str, number: u32, route: &str) -> String {
    let to_tag = if route.is_empty() { "" } else { ";tag=b" };
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\n\
         Via: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bKdialog{number}\r\n\
         Max-Forwards: 70\r\n{route}\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>{to_tag}\r\n\
         Call-ID: dialog\r\nCSeq: {number} {method}\r\n\
         Contact: <sip:alice@192.0.2.1:5060;transport=tcp>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Datagram sockets of this process, as `ss` lists them.
fn datagrams_of(id: u32) -> Vec<String> {
    let listed = Command::new("ss").args(["-H", "-u", "-a", "-n", "-p"]).output().expect("ss");
    assert!(listed.status.success());
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().filter(|line| line.contains(&format!("pid={id},"))).map(str::to_owned).collect()
}

#[test]
fn a_new_answer_moves_new_calls_and_no_answer_moves_nothing() {
    alone("a_new_answer_moves_new_calls_and_no_answer_moves_nothing", || {
        let directory = tempfile::tempdir().expect("a directory");
        backend("127.0.0.11:5070", "one", None);
        backend("127.0.0.12:5070", "two", None);
        let server = NameServer::start(
            "_sip._tcp.pbx.example 1 SRV 1 1 5070 h.example\nh.example 1 A 127.0.0.11",
        );
        let backends = "{ name = \"r\", srv = \"_sip._tcp.pbx.example\" }";
        let file = configuration(directory.path(), &server, backends);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut client = dial("127.0.0.1:5060");
        assert_eq!(answered_by(&mut client, "first"), "one", "{}", front_end.log());
        let answer = raw(&mut client, &in_dialog("INVITE", 1, ""));
        let routes = answer.lines().filter_map(|line| line.strip_prefix("Record-Route: "));
        // A caller turns them round (RFC 3261 12.1.2).
        let routes: Vec<String> = routes.map(|route| format!("Route: {route}\r\n")).collect();
        let route: String = routes.into_iter().rev().collect();
        assert!(route.contains("sip:"), "{answer}");

        server.set("_sip._tcp.pbx.example 1 SRV 1 1 5070 h.example\nh.example 1 A 127.0.0.12");
        let mut call = 0;
        eventually("the other backend", || {
            call += 1;
            match answered_by(&mut client, &format!("moved{call}")).as_str() {
                "two" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        let backends = status(directory.path())["backends"].clone();
        let names: Vec<_> = backends.as_array().expect("a list").iter().collect();
        assert_eq!(names[0]["name"], "r@127.0.0.12:5070");
        assert_eq!(
            (&names[1]["name"], &names[1]["retired"], &names[1]["up"]),
            (&"r@127.0.0.11:5070".into(), &true.into(), &true.into()),
            "the old one keeps its dialogs"
        );

        let bye = raw(&mut client, &in_dialog("BYE", 2, &route));
        assert!(bye.contains("\r\nServer: one\r\n"), "{bye}");

        // The name server dies in every way that it can; calls go on.
        let moods = [Mood::Silent, Mood::Fails, Mood::Noise(300), Mood::Truncates];
        for (number, mood) in moods.into_iter().enumerate() {
            server.mood(mood);
            eventually("a look-up that fails", || {
                let name = status(directory.path())["names"][0].clone();
                match name["state"] == "stale" && name["failures"].as_u64() >= Some(1) {
                    true => Ok(()),
                    false => Err(name.to_string()),
                }
            });
            assert_eq!(answered_by(&mut client, &format!("mood{number}")), "two", "{mood:?}");
            server.mood(Mood::Answers);
            eventually("an answer", || match &status(directory.path())["names"][0]["state"] {
                state if state == "resolved" => Ok(()),
                state => Err(state.to_string()),
            });
        }
        server.set("");
        eventually(
            "a name that is gone",
            || match &status(directory.path())["names"][0]["fault"] {
                fault if fault.is_string() => Ok(()),
                fault => Err(fault.to_string()),
            },
        );
        assert_eq!(answered_by(&mut client, "gone"), "two");
        let age = status(directory.path())["names"][0]["answer_age_seconds"].clone();
        assert!(age.is_u64(), "{age}");
    });
}

#[test]
fn a_process_without_an_answer_starts_empty_and_never_opens_a_datagram_socket() {
    let own = "a_process_without_an_answer_starts_empty_and_never_opens_a_datagram_socket";
    if Command::new("ss").arg("-V").output().is_err() {
        return skip(own, "ss (iproute2) is not installed");
    }
    alone(own, || {
        let directory = tempfile::tempdir().expect("a directory");
        backend("127.0.0.11:5070", "one", None);
        let server = NameServer::start("h.example 1 A 127.0.0.11");
        server.mood(Mood::Silent);
        let backends = "{ name = \"r\", address = \"h.example:5070\" }";
        let file = configuration(directory.path(), &server, backends);
        let started = Instant::now();
        let front_end = FrontEnd::spawn(directory.path(), &["run", "--config", &file]);
        // Looked at as often as the machine allows while questions are under way.
        let (mut looks, mut under_way) = (0, 0);
        let socket = directory.path().join("ringfront-state/admin.sock");
        while !socket.exists() {
            assert!(started.elapsed() < process::PATIENCE, "{}", front_end.log());
            assert_eq!(datagrams_of(front_end.id()), [""; 0]);
            looks += 1;
            under_way += usize::from(server.asked() > 0);
        }
        assert!(looks > 2 && under_way > 2, "{looks} looks, {under_way} with a question under way");
        let (code, _, body) = admin(&socket, "GET /readyz");
        assert_eq!(code, 503, "{body}");
        assert!(body.contains("a backend's name is not resolved"), "{body}");
        let mut client = dial("127.0.0.1:5060");
        assert_eq!(answered_by(&mut client, "early"), "SIP/2.0 503 Service Unavailable");
        assert!(
            front_end.log().contains("a backend's name is not resolved"),
            "{}",
            front_end.log()
        );

        server.mood(Mood::Answers);
        let mut call = 0;
        eventually("the backend", || {
            call += 1;
            assert_eq!(datagrams_of(front_end.id()), [""; 0]);
            match answered_by(&mut client, &format!("late{call}")).as_str() {
                "one" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        eventually("ready", || match admin(&socket, "GET /readyz") {
            (200, ..) => Ok(()),
            (_, _, body) => Err(body),
        });
        let (_, _, metrics) = admin(&socket, "GET /metrics");
        for line in [
            "ringfront_dns_lookups_total{result=\"timeout\"} ",
            "ringfront_dns_lookups_total{result=\"answered\"} ",
            "ringfront_dns_failures{pool=\"pbx\",backend=\"r\"} 0",
            "ringfront_dns_answer_age_seconds{pool=\"pbx\",backend=\"r\"} ",
            "ringfront_backend_up{pool=\"pbx\",backend=\"r@127.0.0.11:5070\"} 1",
        ] {
            assert!(metrics.contains(line), "{line} in {metrics}");
        }
        if process::has_own_network() {
            assert_eq!(process::datagram_sockets(), [""; 0]);
        }
    });
}

/// 3263-4.1-c: what DNS offers over UDP only is refused as such, and counted by its place.
#[test]
fn a_name_that_leads_to_udp_only_is_refused_with_480() {
    alone("a_name_that_leads_to_udp_only_is_refused_with_480", || {
        let directory = tempfile::tempdir().expect("a directory");
        let server = NameServer::start(
            "pbx.example 60 NAPTR 1 1 s SIP+D2U _sip._udp.pbx.example\npbx.example 60 A 127.0.0.11",
        );
        let backends = "{ name = \"r\", address = \"pbx.example\" }";
        let file = configuration(directory.path(), &server, backends);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut client = dial("127.0.0.1:5060");
        let head = exchange(&mut client, "TCP", "MESSAGE", "sip:bob@example.com", "udp");
        assert!(head.starts_with("SIP/2.0 480 "), "{head}");
        assert!(head.contains("\r\nWarning: 399 "), "{head}");
        assert_eq!(status(directory.path())["names"][0]["state"], "udp_only");
        let socket = directory.path().join("ringfront-state/admin.sock");
        let (_, _, metrics) = admin(&socket, "GET /metrics");
        assert!(
            metrics.contains("ringfront_transport_refused_total{where=\"dns\"} 1"),
            "{metrics}"
        );
        assert!(metrics.contains("ringfront_dns_udp_discarded_total 1"), "{metrics}");
        assert!(front_end.log().contains("over UDP only"), "{}", front_end.log());
    });
}

/// 3263-4.2-a: the least priority goes first, and within it requests go by weight, over all that a pool names.
#[test]
fn priorities_and_weights_reach_the_workers_and_survive_a_reload() {
    alone("priorities_and_weights_reach_the_workers_and_survive_a_reload", || {
        let directory = tempfile::tempdir().expect("a directory");
        for (address, name) in [("127.0.0.11:5070", "one"), ("127.0.0.12:5070", "two")] {
            backend(address, name, None);
        }
        backend("127.0.0.13:5070", "backup", None);
        let server = NameServer::start(
            "
            _sip._tcp.pbx.example 60 SRV 10 30 5070 one.example
            _sip._tcp.pbx.example 60 SRV 10 10 5070 two.example
            _sip._tcp.pbx.example 60 SRV 20 90 5070 backup.example
            one.example 60 A 127.0.0.11
            two.example 60 A 127.0.0.12
            backup.example 60 A 127.0.0.13
            ",
        );
        let backends = "{ name = \"r\", srv = \"_sip._tcp.pbx.example\" }";
        let file = configuration(directory.path(), &server, backends);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut client = dial("127.0.0.1:5060");
        let mut count = |prefix: &str| {
            let mut counts = [0; 3];
            for call in 0..100 {
                let by = answered_by(&mut client, &format!("{prefix}{call}"));
                let place = ["one", "two", "backup"].iter().position(|name| *name == by);
                counts[place.unwrap_or_else(|| panic!("{by}: {}", front_end.log()))] += 1;
            }
            counts
        };
        let [one, two, backup] = count("a");
        assert_eq!(backup, 0, "a higher number waits for the lower ones");
        assert!((60..90).contains(&one) && two > 0, "{one} {two}");
        let asked = server.asked();
        front_end.signal("HUP");
        eventually("the names asked again", || match server.asked() {
            now if now > asked => Ok(()),
            now => Err(now.to_string()),
        });
        assert_eq!(count("a"), [one, two, 0], "the same calls go the same way");
    });
}

/// 3263-4.1-e: the certificate must carry the name before DNS; one that only DNS gave is of no use.
#[test]
fn a_tls_backend_is_known_by_its_name_before_dns() {
    alone("a_tls_backend_is_known_by_its_name_before_dns", || {
        let directory = tempfile::tempdir().expect("a directory");
        let sides = certified(directory.path(), &["pbx.example", "h.example"]);
        let mut sides = sides.into_iter();
        backend("127.0.0.11:5071", "before", sides.next());
        backend("127.0.0.12:5071", "after", sides.next());
        let server = NameServer::start(
            "
            pbx.example 60 NAPTR 1 1 s SIPS+D2T _sips._tcp.pbx.example
            _sips._tcp.pbx.example 60 SRV 1 1 5071 h.example
            _sips._tcp.pbx.example 60 SRV 1 1 5071 i.example
            h.example 60 A 127.0.0.12
            i.example 60 A 127.0.0.11
            ",
        );
        let file =
            configuration(directory.path(), &server, "{ name = \"r\", address = \"pbx.example\" }");
        let text = std::fs::read_to_string(&file).expect("the file");
        let core = "[zone.core]\ntransports = [\"tcp\"]";
        assert!(text.contains(core));
        let tls = "[zone.core]\ntransports = [\"tls\"]\nserver_ca = \"ca.pem\"";
        std::fs::write(&file, text.replace(core, tls)).expect("written");
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut client = dial("127.0.0.1:5060");
        for call in 0..20 {
            let by = answered_by(&mut client, &format!("tls{call}"));
            assert_eq!(by, "before", "{}", front_end.log());
        }
        let backends = status(directory.path())["backends"].clone();
        let up = |address: &str| {
            let mut all = backends.as_array().expect("a list").iter();
            all.find(|it| it["address"] == address).expect("it is listed")["up"].clone()
        };
        assert_eq!((up("127.0.0.11:5071"), up("127.0.0.12:5071")), (true.into(), false.into()));
    });
}
