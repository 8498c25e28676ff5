//! From settled configuration to a running process: probe, directory, secret, listeners, TLS, workers, admin.
//! Owns the order of these steps. Never leaves anything half-started: a fault ends the process before it is ready.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::admin::{self, Questions};
use super::door::{Door, Guarded, Rules};
use super::fault;
use super::files;
use super::fleet::{self, Events};
use super::resolve::{self, Resolver, names};
use super::secret::Secret;
use super::settings::Keys;
use crate::config::snapshot::{
    AdminListen, ControlSettings, IdentityFiles, Listener, Snapshot, Transport,
};
use crate::peer::registrar::Registrar;
use crate::proxy::Proxy;
use crate::proxy::settings::Settings;
use crate::sys::{StartUpFault, probe, process, socket};
use crate::tls::identity;
use crate::worker::WorkerHandle;

/// The CA that vouches for the certificate made in memory, in the state directory.
pub const CA_FILE: &str = "ringfront-ca.pem";

/// A certificate made in memory is good for so long: a little more than a year, as browsers allow.
const SELF_SIGNED_DAYS: u32 = 397;

/// A token of the admin interface is a line, not a book.
const TOKEN_BYTES_MAX: usize = 4096;

/// What the start has made beyond the configuration, to be put into every later one as well.
pub struct Made {
    identity: Option<IdentityFiles>,
    backend: Option<SocketAddr>,
}

/// Everything that runs.
pub struct Running {
    /// As configured, before names are put in.
    pub configured: Snapshot,
    pub resolver: Resolver,
    pub settings: Arc<Settings>,
    pub keys: Keys,
    pub made: Made,
    pub workers: Vec<WorkerHandle<Proxy>>,
    pub backend: Option<WorkerHandle<Registrar>>,
    /// Removed when the process ends.
    pub admin_socket: Option<PathBuf>,
    /// Only one process may have the state directory; the lock goes with the file.
    pub lock: std::fs::File,
}

/// Looks whether the kernel can do what is needed, and takes what limits it gives.
///
/// # Errors
/// io_uring is missing, forbidden or too old.
pub fn probe() -> Result<(), StartUpFault> {
    // The limit bounds a ring's table of descriptors; a refusal shows there with its cure.
    let _ = process::raise_descriptor_limit();
    // Keys are in this process's memory; a kernel that refuses leaves only the usual protection.
    let _ = process::forbid_dumps();
    match probe::run()?.fault() {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// Starts everything.
pub async fn start(
    mut snapshot: Snapshot,
    control: &ControlSettings,
    user: u32,
    events: &Events,
    questions: &Questions,
) -> Result<Running, StartUpFault> {
    let directory = &control.state_dir;
    let made = files::make_directory(directory).await;
    made.map_err(|error| fault::file("make the state directory", directory, &error))?;
    let lock = lock(directory)?;
    let secret = Secret::load(&control.secret_file).await?;
    let keys = Keys::new(&snapshot.node, &secret, &snapshot.tls.tickets);
    let keys = keys.map_err(|fault| fault.start_up())?;
    // Before anybody can connect: a front-end without backends would only refuse.
    let mut resolver = Resolver::new(&control.resolver, &snapshot);
    resolver.settle(resolve::START_PATIENCE).await;

    let workers = control.cores.len() as u16;
    let listeners = listen(&snapshot, workers)?;
    let backend_listener = match control.embedded_backend {
        Some(address) => Some(at("embedded backend", socket::listen(address, 1))?),
        None => None,
    };
    let made = Made {
        identity: self_signed(&snapshot, directory, &keys).await?,
        backend: backend_listener.as_ref().map(|listener| listener[0].address()),
    };
    made.put_into(&mut snapshot, control);
    let configured = snapshot;
    let trial = names::trial(&configured, &control.resolver);
    keys.settings(trial, workers as u8).map_err(|faults| faults[0].start_up())?;
    let settings = keys.settings(resolver.names().expand(&configured), workers as u8);
    let settings = settings.map_err(|faults| faults[0].start_up())?;
    let settings = Arc::new(settings);

    let (admin_socket, doors) = open_doors(control, user).await?;
    let backend = match backend_listener {
        Some(listener) => Some(fleet::start_backend(listener, events)?),
        None => None,
    };
    let mut engine = control.engine.clone();
    if engine.zero_copy_send && !probe::run()?.has(probe::ZERO_COPY_SEND) {
        tracing::warn!("this kernel has no zero-copy send (Linux 6.0): sends are copied");
        engine.zero_copy_send = false;
    }
    let workers = fleet::start(&control.cores, &engine, &settings, listeners, events)?;
    serve(doors, questions);
    Ok(Running { configured, resolver, settings, keys, made, workers, backend, admin_socket, lock })
}

impl Made {
    /// Puts the certificate made in memory and the port of the embedded backend into a snapshot.
    pub fn put_into(&self, snapshot: &mut Snapshot, control: &ControlSettings) {
        if let Some(identity) = &self.identity {
            for listener in
                snapshot.listeners.iter_mut().filter(|listener| needs_identity(listener))
            {
                listener.identities = vec![identity.clone()];
            }
        }
        if let (Some(placeholder), Some(bound)) = (control.embedded_backend, self.backend) {
            let backends = snapshot.pools.iter_mut().flat_map(|pool| &mut pool.backends);
            for backend in backends.filter(|backend| backend.address == placeholder) {
                backend.address = bound;
            }
        }
    }
}

fn needs_identity(listener: &Listener) -> bool {
    listener.transport == Transport::Tls && listener.identities.is_empty()
}

/// The lock of the state directory: a second process on the same directory would share its secret and socket.
fn lock(directory: &Path) -> Result<std::fs::File, StartUpFault> {
    let path = directory.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| fault::file("open the lock", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(fault::start_up(
            "the state directory is in use",
            directory.display().to_string(),
            "another ringfront runs on it",
            "stop that one, or give this one its own node.state_dir",
        )),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(fault::file("lock the state directory", &path, &error))
        }
    }
}

/// Sockets of every worker for every address of the configuration, in its order.
fn listen(snapshot: &Snapshot, workers: u16) -> Result<Vec<Vec<socket::Listener>>, StartUpFault> {
    snapshot
        .listeners
        .iter()
        .map(|listener| {
            let place = format!("listener {}, {}", listener.name, listener.bind);
            at(&place, socket::listen(listener.bind, workers))
        })
        .collect()
}

fn at<T>(place: &str, outcome: Result<T, StartUpFault>) -> Result<T, StartUpFault> {
    outcome.map_err(|fault| StartUpFault { place: place.to_owned(), ..fault })
}

/// Makes a certificate for the TLS listeners that have none, and writes the CA for clients to trust.
async fn self_signed(
    snapshot: &Snapshot,
    directory: &Path,
    keys: &Keys,
) -> Result<Option<IdentityFiles>, StartUpFault> {
    let without: Vec<&Listener> =
        snapshot.listeners.iter().filter(|listener| needs_identity(listener)).collect();
    if without.is_empty() {
        return Ok(None);
    }
    let mut names = vec!["localhost".to_owned()];
    for listener in without {
        let host = listener.advertised.host.trim_start_matches('[').trim_end_matches(']');
        names.push(host.to_owned());
        if !listener.bind.ip().is_unspecified() {
            names.push(listener.bind.ip().to_string());
        }
    }
    names.sort_unstable();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let now = keys.clock().current_time().unwrap_or_else(UnixTime::now);
    let made = identity::self_signed(&names, now, SELF_SIGNED_DAYS).map_err(|error| {
        fault::start_up(
            format!("cannot make a certificate: {error}"),
            format!("for {}", names.join(", ")),
            "a name that no certificate can carry",
            "give the listener certificates, or advertise a plain name",
        )
    })?;
    let path = directory.join(CA_FILE);
    let written = files::replace(&path, made.ca_pem.clone().into_bytes(), files::PUBLIC).await;
    written.map_err(|error| fault::file("write the CA", &path, &error))?;
    Ok(Some(made.identity()))
}

/// A listener of the admin interface, with its rules, and whether it shows everything.
struct Opened {
    guarded: Guarded,
    rules: Rules,
    whole: bool,
}

async fn open_doors(
    control: &ControlSettings,
    user: u32,
) -> Result<(Option<PathBuf>, Vec<Opened>), StartUpFault> {
    let mut doors = Vec::new();
    let mut admin_socket = None;
    match &control.admin {
        AdminListen::Unix(path) => {
            let guarded = Guarded::new(Door::Unix(open_unix(path)?, user));
            doors.push(Opened { guarded, rules: Rules::unix(), whole: true });
            admin_socket = Some(path.clone());
        }
        AdminListen::Tcp { address, token_file } => {
            let token = token(token_file).await?;
            let host_name =
                std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let rules = Rules::admin(*address, host_name.trim(), token);
            let guarded = Guarded::new(open_tcp("admin.listen", *address).await?);
            doors.push(Opened { guarded, rules, whole: true });
        }
    }
    if let Some(address) = control.metrics_listen {
        let guarded = Guarded::new(open_tcp("admin.metrics_listen", address).await?);
        doors.push(Opened { guarded, rules: Rules::metrics(address), whole: false });
    }
    Ok((admin_socket, doors))
}

fn serve(doors: Vec<Opened>, questions: &Questions) {
    for Opened { guarded, rules, whole } in doors {
        let questions = questions.clone();
        if whole {
            tokio::spawn(admin::serve(guarded, rules, questions));
        } else {
            tokio::spawn(admin::serve_metrics(guarded, rules, questions));
        }
    }
}

async fn open_tcp(key: &str, address: SocketAddr) -> Result<Door, StartUpFault> {
    let listener = tokio::net::TcpListener::bind(address).await;
    listener.map(Door::Tcp).map_err(|error| fault::listen(key, address, &error))
}

/// The socket of an earlier process is taken away: the lock on the state directory says that it is gone. For a path
/// elsewhere the socket itself is asked.
fn open_unix(path: &Path) -> Result<tokio::net::UnixListener, StartUpFault> {
    let fault = |error| fault::file("listen on the admin socket", path, &error);
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(fault::start_up(
            "the admin socket is in use",
            path.display().to_string(),
            "another process listens there",
            format!(
                "find it with: ss -lxp src {}; stop it, or change admin.listen",
                path.display()
            ),
        ));
    }
    let is_socket = std::fs::symlink_metadata(path)
        .is_ok_and(|file| std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()));
    if is_socket {
        std::fs::remove_file(path).map_err(fault)?;
    }
    // Its mode is set before anybody can be accepted; the kernel's check of the caller's user stands besides.
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(fault)?;
    let only_owner = std::fs::Permissions::from_mode(files::PRIVATE);
    std::fs::set_permissions(path, only_owner).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    tokio::net::UnixListener::from_std(listener).map_err(fault)
}

async fn token(path: &Path) -> Result<Zeroizing<Vec<u8>>, StartUpFault> {
    let read = files::read(path, TOKEN_BYTES_MAX).await;
    let bytes =
        Zeroizing::new(read.map_err(|error| fault::file("read the admin token", path, &error))?);
    Ok(Zeroizing::new(bytes.trim_ascii().to_vec()))
}

/// The lines printed when the process is ready: where it listens, and what to try.
pub fn greeting(snapshot: &Snapshot, control: &ControlSettings) -> String {
    let of = |transport| {
        let addresses = snapshot.listeners.iter().filter(|of| of.transport == transport);
        addresses.map(|listener| listener.bind).collect::<Vec<_>>()
    };
    let list = |addresses: &[SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (tcp, tls) = (of(Transport::Tcp), of(Transport::Tls));
    let mut text = String::from("ringfront is ready");
    if !tls.is_empty() {
        text.push_str(&format!("; TLS on {}", list(&tls)));
    }
    if !tcp.is_empty() {
        text.push_str(&format!("; TCP on {}", list(&tcp)));
    }
    text.push('\n');
    if control.embedded_backend.is_none() {
        return text;
    }
    text.push_str("try:\n");
    if let Some(address) = tcp.first() {
        text.push_str(&format!("  sipp {address} -sn uac -t t1 -m 10 -r 10\n"));
    }
    if let Some(address) = tls.first() {
        let ca = control.state_dir.join(CA_FILE);
        text.push_str(&format!("  openssl s_client -connect {address} -CAfile {}\n", ca.display()));
    }
    if let Some(address) = control.metrics_listen {
        let address = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                SocketAddr::new([127, 0, 0, 1].into(), address.port())
            }
            _ => address,
        };
        text.push_str(&format!("  curl http://{address}/v1/latency\n"));
    }
    text
}

/// A queue of questions and its end.
pub fn questions() -> (Questions, mpsc::Receiver<admin::Asked>) {
    mpsc::channel(admin::QUESTIONS_WAITING_MAX)
}
