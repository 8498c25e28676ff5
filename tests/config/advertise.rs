//! What each zone and listener advertises, rule by rule of the contract.

use ringfront::config::Settled;
use ringfront::config::snapshot::{Advertised, Transport};

use super::load_text;

/// `zone: transport_family host:port` and `listener bind host:port`, one a line.
fn told(settled: &Settled) -> String {
    let mut text = String::new();
    let write = |advertised: &Advertised| {
        format!("{}:{}/{}", advertised.host, advertised.port, advertised.transport.name())
    };
    for zone in &settled.snapshot.zones {
        let all = &zone.advertised;
        let slots = [
            ("tcp4", &all.tcp_v4),
            ("tcp6", &all.tcp_v6),
            ("tls4", &all.tls_v4),
            ("tls6", &all.tls_v6),
        ];
        let slots = slots
            .iter()
            .filter_map(|(name, slot)| Some(format!(" {name}={}", write(slot.as_ref()?))));
        text += &format!("{}:{}\n", zone.name, slots.collect::<String>());
    }
    for listener in &settled.snapshot.listeners {
        text += &format!("{} {} {}\n", listener.name, listener.bind, write(&listener.advertised));
    }
    text
}

fn settled(text: &str) -> Settled {
    load_text(text).unwrap_or_else(|faults| panic!("{}", faults.text()))
}

/// 3261-18.2.1-b
#[test]
fn the_listener_overrides_the_zone_and_the_zone_the_bound_address() {
    let settled = settled(
        "
        [zone.edge]
        transports = ['tcp', 'tls']
        advertise = 'SIP.example.com.'
        [zone.bare]
        transports = 'tcp'
        [[listener]]
        name = 'a'
        zone = 'edge'
        transport = 'tcp'
        bind = ['0.0.0.0:5070', '[::]:5080']
        [[listener]]
        name = 'b'
        zone = 'edge'
        transport = 'tls'
        bind = ['127.0.0.1:5071', '[::1]:5071']
        advertise = ['192.0.2.7:443', '2001:db8::7']
        [[listener]]
        name = 'c'
        zone = 'bare'
        transport = 'tcp'
        bind = '[2001:db8:0:0::1]:5072'
        ",
    );
    insta::assert_snapshot!(told(&settled), @"
    edge: tcp4=sip.example.com:5070/tcp tcp6=sip.example.com:5080/tcp tls4=192.0.2.7:443/tls tls6=[2001:db8::7]:5071/tls
    bare: tcp4=sip.example.com:5070/tcp tcp6=[2001:db8::1]:5072/tcp
    a 0.0.0.0:5070 sip.example.com:5070/tcp
    a [::]:5080 sip.example.com:5080/tcp
    b 127.0.0.1:5071 192.0.2.7:443/tls
    b [::1]:5071 [2001:db8::7]:5071/tls
    c [2001:db8::1]:5072 [2001:db8::1]:5072/tcp
    ");
}

#[test]
fn a_list_gives_one_for_each_family() {
    let settled = settled(
        "
        [zone.names]
        transports = 'tcp'
        advertise = ['four.example.com', 'six.example.com']
        [zone.mixed]
        transports = 'tcp'
        advertise = ['sip.example.com', '192.0.2.1']
        [zone.one]
        transports = 'tcp'
        advertise = '192.0.2.1'
        [[listener]]
        name = 'n'
        zone = 'names'
        transport = 'tcp'
        bind = ['0.0.0.0:5060', '[::]:5060']
        [[listener]]
        name = 'm'
        zone = 'mixed'
        transport = 'tcp'
        bind = ['0.0.0.0:5070', '[::]:5070']
        [[listener]]
        name = 'o'
        zone = 'one'
        transport = 'tcp'
        bind = ['0.0.0.0:5080', '[::1]:5080']
        ",
    );
    insta::assert_snapshot!(told(&settled), @"
    names: tcp4=four.example.com:5060/tcp tcp6=six.example.com:5060/tcp
    mixed: tcp4=192.0.2.1:5070/tcp tcp6=sip.example.com:5070/tcp
    one: tcp4=192.0.2.1:5080/tcp tcp6=[::1]:5080/tcp
    n 0.0.0.0:5060 four.example.com:5060/tcp
    n [::]:5060 six.example.com:5060/tcp
    m 0.0.0.0:5070 192.0.2.1:5070/tcp
    m [::]:5070 sip.example.com:5070/tcp
    o 0.0.0.0:5080 192.0.2.1:5080/tcp
    o [::1]:5080 [::1]:5080/tcp
    ");
}

const EDGE: &str = "
    [zone.edge]
    transports = ['tcp', 'tls']
    [[listener]]
    name = 'edge-tls'
    zone = 'edge'
    transport = 'tls'
    bind = ['127.0.0.1:5061', '[::1]:5061']
    [[listener]]
    name = 'edge-tcp'
    zone = 'edge'
    transport = 'tcp'
    bind = '127.0.0.1:5060'
    [[route]]
    from_zone = 'edge'
    pool = 'p'
    ";

#[test]
fn a_zone_without_a_listener_is_told_the_first_tcp_listener_else_the_first_tls_one() {
    let core = "
        [zone.core]
        transports = 'tcp'
        trusted = true
        allow_from = ['192.0.2.0/24', '2001:db8::/32']
        [[pool]]
        name = 'p'
        zone = 'core'
        backends = [
          { name = 'four', address = '192.0.2.1:5060' },
          { name = 'six', address = '[2001:db8::1]:5060' },
        ]
        ";
    let settled = settled(&format!("{EDGE}{core}"));
    let core = &settled.snapshot.zones[1].advertised;
    let (four, six) = (core.tcp_v4.as_ref().unwrap(), core.tcp_v6.as_ref().unwrap());
    assert_eq!((&*four.host, four.port, four.transport), ("127.0.0.1", 5060, Transport::Tcp));
    assert_eq!((&*six.host, six.port, six.transport), ("[::1]", 5061, Transport::Tls));
    // It does not speak TLS, so it is told nothing for it.
    assert_eq!((&core.tls_v4, &core.tls_v6), (&None, &None));
    let notes: Vec<&str> = settled.notes.iter().map(|note| note.why.as_str()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("no tcp listener on IPv4")
            && notes[0].contains("127.0.0.1:5060, of listener edge-tcp")
    );
    assert!(
        notes[1].contains("no tcp listener on IPv6")
            && notes[1].contains("[::1]:5061, of listener edge-tls")
    );
}

#[test]
fn a_zone_without_a_listener_that_advertises_is_taken_at_its_word() {
    let core = "
        [zone.core]
        transports = ['tcp', 'tls']
        advertise = 'core.example.com'
        trusted = true
        allow_from = '192.0.2.0/24'
        [[pool]]
        name = 'p'
        zone = 'core'
        backends = [{ name = 'four', address = '192.0.2.1:5060', transport = 'tcp' }]
        ";
    let settled = settled(&format!("{EDGE}{core}"));
    let core = &settled.snapshot.zones[1].advertised;
    let told =
        |slot: &Option<Advertised>| slot.as_ref().map(|told| (told.host.to_string(), told.port));
    assert_eq!(told(&core.tcp_v4), Some(("core.example.com".into(), 5060)));
    assert_eq!(told(&core.tls_v6), Some(("core.example.com".into(), 5061)));
    assert_eq!(settled.notes, []);
}
