//! Certificates and keys that a file names: what is wrong with them is said at the key that names them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, Issuer, KeyPair};
use ringfront::config::snapshot::{IdentityFiles, KeyKind, TicketPolicy};
use ringfront::config::{self, Faults, HostFacts, Settled};
use tempfile::TempDir;
use x509_parser::time::ASN1Time;

use super::{host, own_user};

const DAY: i64 = 24 * 3600;

/// A directory with `ringfront.toml`, `chain.pem`, `key.pem` and `ca.pem`.
struct Place {
    directory: TempDir,
}

impl Place {
    /// A leaf for sip.example.com, good from `from` to `until` days from now.
    fn new(from: i64, until: i64) -> Place {
        let place = Place { directory: tempfile::tempdir().expect("a directory") };
        let (chain, key, ca) = leaf(from, until);
        place.write("chain.pem", &chain, 0o644);
        place.write("key.pem", &key, 0o600);
        place.write("ca.pem", &ca, 0o644);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).expect("written");
        self.mode(name, mode);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// A TLS listener with `certificates`.
    fn load(&self, certificates: &str) -> Result<Settled, Faults> {
        self.load_as(certificates, &host())
    }

    fn load_as(&self, certificates: &str, host: &HostFacts) -> Result<Settled, Faults> {
        let text = format!(
            "[zone.edge]\ntransports = 'tls'\n[[listener]]\nname = 'edge-tls'\nzone = 'edge'\n\
             transport = 'tls'\nbind = '192.0.2.1:5061'\ncertificates = {certificates}\n"
        );
        self.load_text(&text, host)
    }

    fn load_text(&self, text: &str, host: &HostFacts) -> Result<Settled, Faults> {
        fs::write(self.path("ringfront.toml"), text).expect("written");
        config::load(Some(&self.path("ringfront.toml")), host)
    }

    /// The one fault: its key, and why.
    fn fault(&self, certificates: &str) -> (String, String) {
        one(self.load(certificates))
    }
}

fn one(outcome: Result<Settled, Faults>) -> (String, String) {
    let faults = outcome.expect_err("faults").faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(!faults[0].cure.is_empty() && faults[0].place.is_some(), "{faults:?}");
    (faults[0].key.clone(), faults[0].why.clone())
}

fn params(name: &str, from: i64, until: i64) -> CertificateParams {
    let time =
        |days: i64| ASN1Time::from_timestamp(host().unix_time + days * DAY).unwrap().to_datetime();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (time(from), time(until));
    params
}

/// Chain (leaf and CA), key, and the CA alone, PEM.
fn leaf(from: i64, until: i64) -> (String, String, String) {
    leaf_of("sip.example.com", from, until)
}

fn leaf_of(name: &str, from: i64, until: i64) -> (String, String, String) {
    let mut ca = params("CA", -10, 1000);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuing: &Issuer<'_, KeyPair> = &issuer;
    let leaf = params(name, from, until).signed_by(&key, issuing).unwrap();
    (format!("{}{}", leaf.pem(), issuer.pem()), key.serialize_pem(), issuer.pem())
}

const PAIR: &str = "[{ chain = 'chain.pem', key = 'key.pem' }]";

fn identities(settled: Settled) -> Vec<IdentityFiles> {
    settled.snapshot.listeners.into_iter().next().expect("a listener").identities
}

/// 5922-7.5-a
#[test]
fn an_advertised_name_that_no_certificate_carries_is_said() {
    let place = Place::new(-1, 90);
    let said = |advertise: &str, certificates: &str| -> Vec<String> {
        let text = format!(
            "[zone.edge]\ntransports = 'tls'\n[[listener]]\nname = 'edge-tls'\nzone = 'edge'\n\
             transport = 'tls'\nbind = ['192.0.2.1:5061', '192.0.2.2:5061']\n{advertise}\n\
             certificates = {certificates}\n"
        );
        let settled = place.load_text(&text, &host()).expect("good");
        let notes = settled.notes.iter().filter(|note| note.why.contains("which is advertised"));
        let notes = notes.inspect(|note| assert!(note.key.ends_with("certificates"), "{note:?}"));
        notes.map(|note| note.why.clone()).collect()
    };
    for good in ["sip.example.com", "SIP.Example.COM", "sip.example.com:5071"] {
        assert_eq!(said(&format!("advertise = '{good}'"), PAIR), Vec::<String>::new());
    }
    // Once for both addresses.
    let other = said("advertise = 'other.example.com'", PAIR);
    assert_eq!(other.len(), 1, "{other:?}");
    assert!(other[0].starts_with("other.example.com, which is advertised, stands in none"));
    // Without `advertise` the bound addresses are what is told.
    assert_eq!(said("", PAIR).len(), 2);
    // One of several certificates is enough; a wildcard is told apart.
    let (chain, key, _) = leaf_of("*.example.com", -1, 90);
    place.write("wild.pem", &chain, 0o644);
    place.write("wild.key", &key, 0o600);
    let wild = "{ chain = 'wild.pem', key = 'wild.key' }";
    let only = said("advertise = 'sip.example.com'", &format!("[{wild}]"));
    assert!(only.len() == 1 && only[0].contains("as a wildcard only"), "{only:?}");
    let both = "[{ chain = 'chain.pem', key = 'key.pem' }, { names = ['a.example.com'], \
                chain = 'wild.pem', key = 'wild.key' }]";
    assert_eq!(said("advertise = 'sip.example.com'", both), Vec::<String>::new());
}

#[test]
fn a_good_pair_is_taken_with_its_chain() {
    let place = Place::new(-1, 90);
    let settled = place.load(PAIR).expect("good");
    assert_eq!(settled.notes.iter().filter(|note| note.key.contains("chain")).count(), 0);
    let identity = identities(settled).remove(0);
    assert_eq!((identity.chain.len(), identity.key_kind), (2, KeyKind::Pkcs8));
    assert!(identity.names.is_empty());
    assert_eq!(identity.chain_path, place.path("chain.pem"));
}

#[test]
fn the_default_identity_comes_first() {
    let place = Place::new(-1, 90);
    let both = "[{ names = 'SIP.example.com', chain = 'chain.pem', key = 'key.pem' }, { chain = 'chain.pem', key = 'key.pem' }]";
    let identities = identities(place.load(both).expect("good"));
    assert!(identities[0].names.is_empty());
    assert_eq!(identities[1].names, ["sip.example.com".into()]);
}

#[test]
fn a_certificate_out_of_its_time_is_refused_and_one_near_its_end_is_told() {
    let (key, why) = Place::new(-20, -1).fault(PAIR);
    assert_eq!(key, "listener[0].certificates[0].chain");
    assert!(why.contains("ended"), "{why}");
    let (key, why) = Place::new(1, 90).fault(PAIR);
    assert_eq!(key, "listener[0].certificates[0].chain");
    assert!(why.contains("begins only"), "{why}");
    let settled = Place::new(-1, 5).load(PAIR).expect("good");
    let note = settled.notes.iter().find(|note| note.why.contains("ends in 5 days"));
    assert!(note.is_some_and(|note| note.key.ends_with(".chain")), "{:?}", settled.notes);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let place = Place::new(-1, 90);
    place.write("key.pem", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    let (key, why) = place.fault(PAIR);
    assert_eq!(key, "listener[0].certificates[0].key");
    assert!(why.contains("does not belong"), "{why}");
}

#[test]
fn a_chain_in_the_wrong_order_and_a_name_that_is_not_in_it_are_refused() {
    let place = Place::new(-1, 90);
    let (key, why) =
        place.fault("[{ names = ['sip.example.net'], chain = 'chain.pem', key = 'key.pem' }]");
    assert_eq!(key, "listener[0].certificates[0].names");
    assert!(why.contains("sip.example.net"), "{why}");

    let (leaf, _, ca) = leaf(-1, 90);
    let leaf = &leaf[..leaf.len() - ca.len()];
    let (_, _, other) = self::leaf(-1, 90);
    place.write("chain.pem", &format!("{other}{leaf}"), 0o644);
    assert!(place.load(PAIR).is_err());
}

#[test]
fn what_is_no_certificate_or_key_is_named() {
    let place = Place::new(-1, 90);
    let chain = fs::read_to_string(place.path("chain.pem")).expect("read");
    let key = fs::read_to_string(place.path("key.pem")).expect("read");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let truncated = &chain[..200];
    let cases: [(&str, &str, &str, &str); 7] = [
        ("chain.pem", "", "chain", "no PEM block \"BEGIN CERTIFICATE\""),
        ("chain.pem", &key, "chain", "no PEM block \"BEGIN CERTIFICATE\""),
        ("chain.pem", truncated, "chain", "chain.pem: "),
        ("key.pem", "", "key", "holds no private key"),
        ("key.pem", &chain, "key", "holds no private key"),
        ("key.pem", &encrypted, "key", "is encrypted"),
        (
            "key.pem",
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
            "key",
            "cannot be used",
        ),
    ];
    for (file, text, at, wanted) in cases {
        place.write("chain.pem", &chain, 0o644);
        place.write("key.pem", &key, 0o600);
        place.write(file, text, 0o600);
        let (key, why) = place.fault(PAIR);
        assert_eq!(key, format!("listener[0].certificates[0].{at}"), "{why}");
        assert!(why.contains(wanted), "{wanted}: {why}");
    }
}

#[test]
fn what_is_no_readable_file_is_named() {
    let place = Place::new(-1, 90);
    let with = |chain: &str| place.fault(&format!("[{{ chain = '{chain}', key = 'key.pem' }}]"));
    let (_, why) = with("absent.pem");
    assert!(why.contains("No such file"), "{why}");
    let (_, why) = with(".");
    assert!(why.contains("not a regular file"), "{why}");
    // Reading it would never end.
    let (_, why) = with("/dev/zero");
    assert!(why.contains("not a regular file"), "{why}");
    place.write("huge.pem", &"x".repeat(1024 * 1024 + 1), 0o644);
    let (_, why) = with("huge.pem");
    assert!(why.contains("1048577 bytes"), "{why}");
    symlink("loop.pem", place.path("loop.pem")).expect("a link");
    let (_, why) = with("loop.pem");
    assert!(why.contains("cannot read"), "{why}");
}

/// threats: a key that others may read, or that somebody else owns, is refused with the command that cures it.
#[test]
fn a_key_that_is_not_its_owners_alone_is_refused() {
    let place = Place::new(-1, 90);
    let modes = [0o640, 0o604, 0o660, 0o606, 0o644, 0o666, 0o610, 0o601, 0o620, 0o602, 0o777];
    for mode in modes {
        place.mode("key.pem", mode);
        let faults = place.load(PAIR).expect_err("faults").faults;
        assert_eq!(faults.len(), 1, "{mode:o}: {faults:?}");
        assert_eq!(faults[0].key, "listener[0].certificates[0].key");
        assert!(faults[0].why.contains(&format!("mode {mode:04o}")), "{faults:?}");
        assert_eq!(faults[0].cure, format!("run: chmod 600 {}", place.path("key.pem").display()));
    }
    for mode in [0o600, 0o400] {
        place.mode("key.pem", mode);
        assert!(place.load(PAIR).is_ok(), "{mode:o}");
    }

    let other = if own_user() == 0 {
        // root may give a file away.
        chown(place.path("key.pem"), Some(12_345), None).expect("chown");
        host()
    } else {
        HostFacts { user: own_user() + 1, ..host() }
    };
    let faults = place.load_as(PAIR, &other).expect_err("faults").faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].why.contains("belongs to user"), "{faults:?}");
    assert!(faults[0].cure.starts_with("run: chown"), "{faults:?}");
}

fn zone(place: &Place, keys: &str) -> Result<Settled, Faults> {
    let text = format!(
        "[zone.edge]\ntransports = 'tls'\n{keys}\n[[listener]]\nname = 'edge-tls'\nzone = 'edge'\n\
         transport = 'tls'\nbind = '127.0.0.1:5061'\n"
    );
    place.load_text(&text, &host())
}

#[test]
fn authorities_of_a_zone_are_read_and_judged() {
    let place = Place::new(-1, 90);
    let keys = "client_certificate = 'required'\nclient_ca = 'ca.pem'\nserver_ca = 'ca.pem'\n\
                client_names = ['PBX.example.com', 'sip:other.example.com']\n\
                certificate = { chain = 'chain.pem', key = 'key.pem' }";
    let settled = zone(&place, keys).expect("good");
    let edge = &settled.snapshot.zones[0];
    assert_eq!((edge.client_ca.len(), edge.server_ca.len()), (1, 1));
    assert_eq!(edge.client_names, ["pbx.example.com".into(), "other.example.com".into()]);
    assert_eq!(edge.certificate.as_ref().map(|own| own.chain.len()), Some(2));

    place.write("ca.pem", "no PEM", 0o644);
    let (key, why) = one(zone(&place, "server_ca = 'ca.pem'"));
    assert_eq!(key, "zone.edge.server_ca");
    assert!(why.contains("no PEM block"), "{why}");

    let old = self::leaf(-20, -1).0;
    let (old_leaf, ca) =
        old.split_at(old.match_indices("-----BEGIN").nth(1).expect("two blocks").0);
    place.write("ca.pem", old_leaf, 0o644);
    let (key, why) = one(zone(&place, "server_ca = 'ca.pem'"));
    assert_eq!(key, "zone.edge.server_ca");
    assert!(why.contains("1 of 1 certificates"), "{why}");
    place.write("ca.pem", &format!("{old_leaf}{ca}"), 0o644);
    let settled = zone(&place, "server_ca = 'ca.pem'").expect("good");
    assert!(
        settled.notes.iter().any(|note| note.why.contains("1 of 2 certificates")),
        "{:?}",
        settled.notes
    );
}

#[test]
fn revocation_lists_and_staples_are_read() {
    let place = Place::new(-1, 90);
    let tls = |keys: &str| {
        let text = format!(
            "[zone.edge]\ntransports = 'tls'\n[[listener]]\nname = 'e'\nzone = 'edge'\ntransport = 'tls'\n\
             bind = '127.0.0.1:5061'\n[tls]\n{keys}\n"
        );
        place.load_text(&text, &host())
    };
    let (key, why) = one(tls("crl = ['ca.pem']"));
    assert_eq!(key, "tls.crl[0]");
    assert!(why.contains("X509 CRL"), "{why}");

    fs::write(place.path("ocsp.der"), [0x30, 3, 0x0a, 1, 0]).expect("written");
    let with = "[{ chain = 'chain.pem', key = 'key.pem', ocsp = 'ocsp.der' }]";
    assert_eq!(identities(place.load(with).expect("good"))[0].ocsp, [0x30, 3, 0x0a, 1, 0]);
    fs::write(place.path("ocsp.der"), [0x30, 4, 0x0a, 1, 0]).expect("written");
    let (key, why) = place.fault(with);
    assert_eq!(key, "listener[0].certificates[0].ocsp");
    assert!(why.contains("no OCSP response"), "{why}");
}

/// The control plane's own secrets are judged like keys.
#[test]
fn tokens_and_secrets_are_their_owners_alone() {
    let place = Place::new(-1, 90);
    let listener = "[zone.edge]\ntransports = 'tcp'\n[[listener]]\nname = 'e'\nzone = 'edge'\ntransport = 'tcp'\n\
                    bind = '127.0.0.1:5060'\n";
    let admin = format!("{listener}[admin]\nlisten = '127.0.0.1:9061'\ntoken_file = 'token'\n");
    place.write("token", "0123456789abcdef0123456789abcdef\n", 0o600);
    let settled = place.load_text(&admin, &host()).expect("good");
    let token_file = |settled: &Settled| match &settled.control.admin {
        config::snapshot::AdminListen::Tcp { token_file, .. } => token_file.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(token_file(&settled), place.path("token"));
    place.mode("token", 0o644);
    assert_eq!(one(place.load_text(&admin, &host())).0, "admin.token_file");
    place.write("token", "short\n", 0o600);
    assert!(one(place.load_text(&admin, &host())).1.contains("shorter than 16"));
    fs::remove_file(place.path("token")).expect("removed");
    assert!(one(place.load_text(&admin, &host())).1.contains("No such file"));
    let (key, _) = one(place.load_text(&admin.replace("token_file = 'token'\n", ""), &host()));
    assert_eq!(key, "admin.token_file");

    let secret = format!("[node]\nsecret_file = 'secret'\n{listener}");
    assert!(place.load_text(&secret, &host()).is_ok(), "made at the start when it is absent");
    place.write("secret", &"0".repeat(64), 0o640);
    assert_eq!(one(place.load_text(&secret, &host())).0, "node.secret_file");

    fs::create_dir(place.path("state")).expect("made");
    let state = format!("[node]\nstate_dir = 'state'\n{listener}");
    place.mode("state", 0o755);
    assert!(place.load_text(&state, &host()).is_ok());
    place.mode("state", 0o775);
    assert_eq!(one(place.load_text(&state, &host())).0, "node.state_dir");
    assert_eq!(
        Path::new("state"),
        place.path("state").strip_prefix(place.directory.path()).unwrap()
    );
}

#[test]
fn a_file_of_ticket_keys_is_read_and_is_its_owners_alone() {
    let place = Place::new(-1, 90);
    let table = "[zone.edge]\ntransports = 'tls'\n[[listener]]\nname = 'edge-tls'\nzone = 'edge'\n\
        transport = 'tls'\nbind = '127.0.0.1:5061'\n[tls]\ntickets = { key_file = 'tickets.key' }\n";
    let key = format!("# newest\n{}\n", "5a".repeat(32));
    place.write("tickets.key", &key, 0o600);
    let settled = place.load_text(table, &host()).expect("good");
    let TicketPolicy::On { lifetime, keys, .. } = settled.snapshot.tls.tickets.clone() else {
        panic!("tickets are on");
    };
    assert_eq!(lifetime.as_secs(), 12 * 3600);
    assert_eq!(keys.expect("keys").as_slice(), key.as_bytes());
    assert!(!format!("{:?}", settled.snapshot.tls).contains("5a5a"), "keys are not for the log");

    place.mode("tickets.key", 0o640);
    let (at, why) = one(place.load_text(table, &host()));
    assert_eq!(at, "tls.tickets.key_file");
    assert!(why.contains("mode 0640"), "{why}");
    place.write("tickets.key", "5a5a\n", 0o600);
    let (_, why) = one(place.load_text(table, &host()));
    assert!(why.ends_with("line 1 is not 64 hexadecimal digits"), "{why}");
    let off = table.replace("{ key_file = 'tickets.key' }", "'off'");
    let settled = place.load_text(&off, &host()).expect("good");
    assert_eq!(settled.snapshot.tls.tickets, TicketPolicy::Off);
}
