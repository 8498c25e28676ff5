//! Reading the configuration again while the process runs.
//! Owns the list of what only a restart can change. Never half-applies: either everything is taken over, or nothing is
//! and every reason is told.

use super::resolve::names;
use std::path::PathBuf;

use super::secret::Secret;
use super::settings::{Keys, SideFault};
use super::start::Made;
use crate::config::Settled;
use crate::config::snapshot::{ControlSettings, Snapshot};
use crate::proxy::settings::Settings;

/// A configuration that is not taken over.
#[derive(Debug)]
pub struct Refused {
    /// Each as a line.
    pub faults: Vec<String>,
    /// The files that it names, as far as it could be read.
    pub files: Vec<PathBuf>,
}

/// How the configuration is read again.
pub struct Reload {
    /// The configuration file; `None`: the embedded default.
    file: Option<PathBuf>,
    read: Box<dyn Fn() -> Result<Settled, Refused>>,
}

impl Reload {
    pub fn new(file: Option<PathBuf>, read: Box<dyn Fn() -> Result<Settled, Refused>>) -> Reload {
        Reload { file, read }
    }

    /// The configuration file and those that it names.
    pub fn files(&self, named: &[PathBuf]) -> Vec<PathBuf> {
        match &self.file {
            Some(file) => named.iter().chain([file]).cloned().collect(),
            None => Vec::new(),
        }
    }
}

/// Reads, and compares with what runs.
///
/// # Errors
/// Every fault of the configuration, or everything in it that needs a restart.
pub fn read(
    reload: &Reload,
    old: &Snapshot,
    control: &ControlSettings,
) -> Result<Settled, Refused> {
    let fresh = (reload.read)()?;
    let faults = needs_restart(old, &fresh.snapshot, control, &fresh.control);
    if faults.is_empty() { Ok(fresh) } else { Err(Refused { faults, files: fresh.files }) }
}

/// Finishes the snapshot: everything but what names lead to; and the keys that go with it, those of the tokens read
/// anew.
///
/// # Errors
/// Everything that is wrong with the secret, certificates and keys.
pub async fn finish(
    mut snapshot: Snapshot,
    control: &ControlSettings,
    keys: &Keys,
    made: &Made,
    old: &Snapshot,
    workers: usize,
) -> Result<(Snapshot, Keys), Vec<String>> {
    let secret = Secret::load(&control.secret_file).await;
    let secret = secret.map_err(|fault| vec![line(&fault.to_string())])?;
    made.put_into(&mut snapshot, control);
    snapshot.generation = old.generation + 1;
    let told = |fault: &SideFault| line(&fault.start_up().to_string());
    let fresh = keys.renewed(&snapshot.node, &secret, &snapshot.tls.tickets);
    let fresh = fresh.map_err(|fault| vec![told(&fault)])?;
    build(&fresh, names::trial(&snapshot, &control.resolver), workers)?;
    Ok((snapshot, fresh))
}

/// What the workers are told of `snapshot`.
///
/// # Errors
/// Everything that is wrong with certificates and keys.
pub fn build(keys: &Keys, snapshot: Snapshot, workers: usize) -> Result<Settings, Vec<String>> {
    let settings = keys.settings(snapshot, workers as u8);
    settings.map_err(|faults| faults.iter().map(|it| line(&it.start_up().to_string())).collect())
}

fn line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ")
}

/// What differs and is fixed while the process runs: sockets, threads, the sizes of tables, and the numbers that
/// connections carry.
fn needs_restart(
    old: &Snapshot,
    new: &Snapshot,
    old_control: &ControlSettings,
    new_control: &ControlSettings,
) -> Vec<String> {
    let sockets = |snapshot: &Snapshot| {
        let listeners = snapshot.listeners.iter();
        listeners.map(|of| (of.bind, of.transport, of.zone)).collect::<Vec<_>>()
    };
    let zones = |snapshot: &Snapshot, count: usize| {
        snapshot.zones.iter().take(count).map(|zone| zone.name.clone()).collect::<Vec<_>>()
    };
    let (a, b) = (old_control, new_control);
    let differs = [
        ("node.name", old.node != new.node),
        ("node.cores", a.cores != b.cores),
        ("node.housekeeping_core", a.housekeeping_core != b.housekeeping_core),
        ("engine", a.engine != b.engine),
        ("node.state_dir", a.state_dir != b.state_dir),
        ("listener: bind, transport or zone", sockets(old) != sockets(new)),
        // Connections know their zone by its number.
        ("zone: names", zones(old, old.zones.len()) != zones(new, old.zones.len())),
        (
            "limits.connections_per_core",
            old.limits.connections_per_core != new.limits.connections_per_core,
        ),
        ("admin.listen", a.admin != b.admin),
        ("admin.metrics_listen", a.metrics_listen != b.metrics_listen),
        ("latency.log", a.latency_log != b.latency_log),
        ("log", a.log != b.log),
        ("pool: the embedded backend", a.embedded_backend != b.embedded_backend),
    ];
    let changed = differs.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(key, _)| format!("{key} changed: that needs a restart")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, HostFacts};

    fn settled() -> Settled {
        let host = HostFacts {
            cores: vec![0, 1],
            descriptors: 20_000,
            user: 0,
            unix_time: 1_800_000_000,
            ipv6_loopback: true,
        };
        config::load(None, &host).unwrap()
    }

    #[test]
    fn a_change_that_needs_a_restart_is_told_and_changes_nothing() {
        let old = settled();
        let reload = Reload::new(
            None,
            Box::new(|| {
                let mut settled = settled();
                settled.snapshot.node = "other".into();
                settled.snapshot.zones.swap(0, 1);
                settled.snapshot.listeners[0].bind.set_port(5999);
                settled.control.metrics_listen = None;
                Ok(settled)
            }),
        );
        let faults = read(&reload, &old.snapshot, &old.control).err().unwrap().faults;
        for key in ["node.name", "zone", "listener", "admin.metrics_listen"] {
            assert!(faults.iter().any(|fault| fault.starts_with(key)), "{key} in {faults:?}");
        }
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn limits_routes_and_new_zones_are_taken_over() {
        let old = settled();
        let reload = Reload::new(
            None,
            Box::new(|| {
                let mut settled = settled();
                let mut zone = settled.snapshot.zones[0].clone();
                zone.name = "more".into();
                settled.snapshot.zones.push(zone);
                settled.snapshot.limits.connections_per_prefix = 7;
                settled.snapshot.routes.clear();
                Ok(settled)
            }),
        );
        let fresh = read(&reload, &old.snapshot, &old.control).unwrap();
        assert_eq!(fresh.snapshot.limits.connections_per_prefix, 7);
    }

    #[test]
    fn a_faulty_file_is_told_line_by_line() {
        let old = settled();
        let faults = || vec!["zone.edge: bad".to_owned(), "b".to_owned()];
        let refuse = move || Err(Refused { faults: faults(), files: Vec::new() });
        let reload = Reload::new(None, Box::new(refuse));
        let faults = read(&reload, &old.snapshot, &old.control).err().unwrap().faults;
        assert_eq!(faults, ["zone.edge: bad", "b"]);
    }
}
