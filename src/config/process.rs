//! Settles what only the control plane needs: `[node]`, `[admin]`, `[latency]`, `[log]`.
//! Owns their defaults and where files of the process lie. Never makes a file or a directory.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::{Check, or, period};
use super::file;
use super::read::{At, Many, Written};
use super::snapshot::{
    AdminListen, ControlSettings, EngineMode, EngineSettings, LogLevel, LogSettings,
    ResolverSettings,
};
use super::value::{AdminAddress, FilePath, Or, Target};
use crate::base::limits::WORKERS_MAX;

const STATE_DIR: &str = "ringfront-state";

/// Bytes of the path in a UNIX socket address, less its final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A token that is shorter can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

impl Check<'_> {
    pub(super) fn control(
        &mut self,
        (node, node_at, engine): (&file::Node, &At, &file::Engine),
        (admin, admin_at): (file::Admin, At),
        latency: file::Latency,
        log: file::Log,
        (binds, embedded_backend): (&[SocketAddr], Option<SocketAddr>),
        resolver: ResolverSettings,
    ) -> ControlSettings {
        let state_dir = match node.state_dir.value() {
            Some(path) => self.path(path),
            None => self.path(&FilePath(STATE_DIR.into())),
        };
        self.state_dir(&state_dir, node.state_dir.at().unwrap_or(node_at));
        let cores = self.cores(node);
        let listen = self.admin(&admin, &admin_at, &state_dir);
        let metrics_listen = admin.metrics_listen.value().map(|address| address.0);
        self.apart(&admin, &listen, metrics_listen, binds);
        self.has_parent(&latency.log);
        let target = or(&log.target, Target::Stderr);
        if let (Target::File(path), Some(at)) = (&target, log.target.at()) {
            let path = FilePath(path.clone());
            self.has_parent(&Written::Is(path, at.clone()));
        }
        ControlSettings {
            watch: or(&node.watch, true),
            housekeeping_core: self.housekeeping_core(node, &cores),
            engine: self.engine(engine, &cores),
            cores,
            secret_file: self.secret_file(node, &state_dir),
            state_dir,
            admin: listen,
            metrics_listen,
            latency_log: latency.log.value().map(|path| self.path(path)),
            latency_interval: period(&latency.interval, Duration::from_secs(10)),
            log: LogSettings {
                level: match or(&log.level, file::LogLevel::Info) {
                    file::LogLevel::Error => LogLevel::Error,
                    file::LogLevel::Warn => LogLevel::Warn,
                    file::LogLevel::Info => LogLevel::Info,
                    file::LogLevel::Debug => LogLevel::Debug,
                    file::LogLevel::Trace => LogLevel::Trace,
                },
                json: or(&log.format, file::LogFormat::Text) == file::LogFormat::Json,
                file: match target {
                    Target::Stderr => None,
                    Target::File(path) => Some(self.path(&FilePath(path))),
                },
            },
            resolver,
            embedded_backend,
        }
    }

    fn state_dir(&mut self, path: &Path, at: &At) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        let shown = path.display();
        if !metadata.is_dir() {
            self.fault(
                at,
                format!("{shown} is no directory"),
                "move it away, or write another state_dir",
            );
        } else if metadata.permissions().mode() & 0o022 != 0 {
            let why = format!("others may write into {shown}, where the key for tokens lies");
            self.fault(at, why, format!("run: chmod 700 {shown}"));
        }
    }

    fn secret_file(&mut self, node: &file::Node, state_dir: &Path) -> PathBuf {
        let (path, at) = match node.secret_file.good() {
            Some((path, at)) => (self.path(path), at.clone()),
            None => (state_dir.join("secret"), At::nowhere("node.secret_file")),
        };
        // Made at the start when it is absent.
        if path.exists() {
            self.secret(&at, &path);
        }
        path
    }

    fn cores(&mut self, node: &file::Node) -> Vec<usize> {
        let all = self.host.cores.clone();
        let Some((Or::Is(Many(list)), at)) = node.cores.good() else {
            if all.len() > usize::from(WORKERS_MAX) {
                let at = node.cores.at().cloned().unwrap_or(At::nowhere("node.cores"));
                let why = format!(
                    "{} cores: {WORKERS_MAX} workers are the most, the first cores are used",
                    all.len()
                );
                self.note(&at, why, "to choose them, write cores = [...]");
            }
            return all.into_iter().take(usize::from(WORKERS_MAX)).collect();
        };
        if list.is_empty() {
            self.fault(at, "no core for any worker", "write cores = \"auto\"");
        }
        self.at_most("cores", at, list.len(), usize::from(WORKERS_MAX));
        let mut cores = Vec::new();
        for (core, at) in list.iter().filter_map(Written::good) {
            let core = *core as usize;
            if cores.contains(&core) {
                self.fault(
                    at,
                    format!("core {core} stands here twice"),
                    "one worker for each core",
                );
            } else if self.core_exists(core, at) {
                cores.push(core);
            }
        }
        cores
    }

    fn core_exists(&mut self, core: usize, at: &At) -> bool {
        let exists = self.host.cores.contains(&core);
        if !exists {
            let cores = self.host.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let why = format!("this process may not run on core {core}");
            self.fault(at, why, format!("use some of: {cores} (taskset and cpusets decide)"));
        }
        exists
    }

    fn housekeeping_core(&mut self, node: &file::Node, workers: &[usize]) -> Option<usize> {
        let (Or::Is(core), at) = node.housekeeping_core.good()? else { return None };
        let core = *core as usize;
        if self.core_exists(core, at) && workers.contains(&core) {
            let why =
                format!("core {core} also has a worker: the control plane takes time from it");
            self.note(
                at,
                why,
                "write housekeeping_core = \"none\", or leave the core out of cores",
            );
        }
        Some(core)
    }

    fn engine(&mut self, engine: &file::Engine, workers: &[usize]) -> EngineSettings {
        let mode = match or(&engine.mode, file::Mode::Deferred) {
            file::Mode::Deferred => EngineMode::Deferred,
            file::Mode::Sqpoll => EngineMode::Sqpoll,
            file::Mode::BusyPoll => EngineMode::BusyPoll,
        };
        let zero_copy_send = or(&engine.zero_copy_send, file::OffAuto::Off) == file::OffAuto::Auto;
        EngineSettings {
            mode,
            sqpoll_cores: self.sqpoll_cores(engine, mode, workers),
            zero_copy_send,
        }
    }

    fn sqpoll_cores(
        &mut self,
        engine: &file::Engine,
        mode: EngineMode,
        workers: &[usize],
    ) -> Vec<usize> {
        let Some((Many(list), at)) = engine.sqpoll_cores.good() else { return Vec::new() };
        if mode != EngineMode::Sqpoll {
            let why = "only mode \"sqpoll\" has threads to place";
            self.fault(at, why, "write mode = \"sqpoll\", or take it out");
        }
        if list.len() != workers.len() {
            let why = format!("{} cores for {} workers", list.len(), workers.len());
            self.fault(at, why, "one core for each worker, in the order of node.cores");
        }
        let mut cores = Vec::new();
        for (core, at) in list.iter().filter_map(Written::good) {
            let core = *core as usize;
            if workers.contains(&core) {
                let why = format!("core {core} has a worker: its thread and the kernel's share it");
                self.note(at, why, "give each a core of its own, or use mode \"deferred\"");
            }
            if self.core_exists(core, at) {
                cores.push(core);
            }
        }
        cores
    }

    fn admin(&mut self, admin: &file::Admin, table: &At, state_dir: &Path) -> AdminListen {
        let own = At::nowhere("admin.listen");
        let (listen, at) = match admin.listen.good() {
            Some((AdminAddress::Tcp(address), _)) => {
                let token =
                    self.required(&admin.token_file, table, "token_file", "\"admin.token\"");
                let Some((path, at)) = token else { return AdminListen::Unix(PathBuf::new()) };
                let path = self.path(path);
                self.token(&path, at);
                return AdminListen::Tcp { address: *address, token_file: path };
            }
            Some((AdminAddress::Unix(path), at)) => (self.path(&FilePath(path.clone())), at),
            None => (state_dir.join("admin.sock"), &own),
        };
        if let Some(at) = admin.token_file.at() {
            let cure = "take it out, or write an address in listen";
            self.fault(at, "a UNIX socket asks for no token: it asks who is calling", cure);
        }
        let bytes = listen.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let why =
                format!("a path of {bytes} bytes: a UNIX socket takes {SOCKET_PATH_BYTES_MAX}");
            self.fault(at, why, "write listen = \"unix:/run/ringfront/admin.sock\" in [admin]");
        }
        AdminListen::Unix(listen)
    }

    fn token(&mut self, path: &Path, at: &At) {
        let Some(bytes) = self.secret(at, path) else { return };
        if bytes.trim_ascii().len() < TOKEN_BYTES_MIN {
            let why = format!(
                "the token in {} is shorter than {TOKEN_BYTES_MIN} characters",
                path.display()
            );
            let shown = path.display();
            self.fault(at, why, format!("run: openssl rand -hex 32 > {shown}"));
        }
    }

    /// The control plane's addresses are nobody else's.
    fn apart(
        &mut self,
        admin: &file::Admin,
        listen: &AdminListen,
        metrics: Option<SocketAddr>,
        binds: &[SocketAddr],
    ) {
        if let (AdminListen::Tcp { address, .. }, Some(at)) = (listen, admin.listen.at()) {
            if binds.contains(address) {
                self.fault(at, format!("{address} is bound by a listener"), "write another port");
            }
            if metrics == Some(*address) {
                self.fault(at, format!("{address} is metrics_listen too"), "write another port");
            }
        }
        if let (Some(address), Some(at)) = (metrics, admin.metrics_listen.at()) {
            if binds.contains(&address) {
                self.fault(at, format!("{address} is bound by a listener"), "write another port");
            }
            if !address.ip().is_loopback() {
                let why = format!("anybody who reaches {address} may read metrics and latency");
                self.note(at, why, "write 127.0.0.1, or keep others away by a firewall");
            }
        }
    }

    fn has_parent(&mut self, file: &Written<FilePath>) {
        let Some((path, at)) = file.good() else { return };
        let path = self.path(path);
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            let why = format!("the directory {} does not exist", parent.display());
            self.fault(at, why, format!("run: mkdir -p {}", parent.display()));
        } else if path.is_dir() {
            self.fault(
                at,
                format!("{} is a directory", path.display()),
                "write the name of a file in it",
            );
        }
    }
}
