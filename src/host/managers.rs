//! Who else sets what we set: irqbalance, tuned, systemd `.link` files, files of sysctl settings.
//! Owns the finding of foreign managers. Never stops or changes one.

use super::setting::processes;
use super::sysroot::Sysroot;

/// The file that `--persist` writes; never a foreign one.
pub const OWN_SYSCTL_FILE: &str = "/etc/sysctl.d/90-ringfront.conf";
/// What our own `.link` files begin with.
pub const OWN_LINK_PREFIX: &str = "10-ringfront-";

/// One line of a foreign file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub file: String,
    pub number: usize,
    pub key: String,
    pub value: String,
}

/// What was found on this host.
#[derive(Clone, Debug, Default)]
pub struct Managers {
    pub irqbalance: Option<u32>,
    pub tuned: Option<u32>,
    /// Processes named `ringfront` that serve, without this one.
    pub serving: Vec<u32>,
    pub sysctl: Vec<Line>,
    pub link: Vec<Line>,
}

impl Managers {
    pub fn of(root: &dyn Sysroot) -> Managers {
        let mut found = Managers::default();
        for (pid, name) in processes(root) {
            match name.as_str() {
                "irqbalance" => found.irqbalance = Some(pid),
                "tuned" => found.tuned = Some(pid),
                "ringfront" if pid != std::process::id() && serves(root, pid) => {
                    found.serving.push(pid);
                }
                _ => {}
            }
        }
        // What an operator has written; vendors' defaults under /usr/lib are there to be overridden.
        for folder in ["/etc/sysctl.d", "/run/sysctl.d"] {
            for name in root.list(folder).unwrap_or_default() {
                let file = format!("{folder}/{name}");
                if name.ends_with(".conf") && file != OWN_SYSCTL_FILE {
                    found.sysctl.extend(lines(root, &file));
                }
            }
        }
        found.sysctl.extend(lines(root, "/etc/sysctl.conf"));
        for folder in ["/etc/systemd/network", "/run/systemd/network"] {
            for name in root.list(folder).unwrap_or_default() {
                if name.ends_with(".link") && !name.starts_with(OWN_LINK_PREFIX) {
                    found.link.extend(lines(root, &format!("{folder}/{name}")));
                }
            }
        }
        found
    }

    /// The last line that sets `key` (as `net.core.somaxconn`).
    pub fn sysctl_line(&self, key: &str) -> Option<&Line> {
        let same =
            |own: &str| own.trim_start_matches('-').replace('/', ".") == key.replace('/', ".");
        self.sysctl.iter().rev().find(|line| same(&line.key))
    }

    /// The name of a manager of the catalogue's `managers` that is at work here, with what to do.
    pub fn at_work(&self, names: &[String]) -> Option<String> {
        names.iter().find_map(|name| match name.as_str() {
            "irqbalance" => self.irqbalance.map(|pid| {
                format!(
                    "irqbalance (process {pid}) would move it back within ten seconds: set \
                     IRQBALANCE_BANNED_CPULIST in /etc/default/irqbalance, or use --force"
                )
            }),
            "tuned" => self.tuned.map(|pid| {
                format!(
                    "tuned (process {pid}) sets it from its profile: `tuned-adm off`, or use --force"
                )
            }),
            other => {
                let key = other.strip_prefix("networkd:")?;
                self.link.iter().find(|line| line.key == key).map(|line| {
                    format!("{}:{} sets {key}={}", line.file, line.number, line.value)
                })
            }
        })
    }
}

/// `ringfront` and `ringfront run` serve; `tune`, `doctor` and the rest do not.
fn serves(root: &dyn Sysroot, pid: u32) -> bool {
    let text = root.read(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let second = text.split('\0').nth(1).unwrap_or_default();
    second.is_empty() || second == "run" || second.starts_with('-')
}

/// `key = value` lines of a file, comments left out.
fn lines(root: &dyn Sysroot, file: &str) -> Vec<Line> {
    let text = root.read(file).unwrap_or_default();
    let numbered = text.lines().enumerate();
    let settings = numbered.filter(|(_, line)| !line.trim_start().starts_with(['#', ';', '[']));
    settings
        .filter_map(|(index, line)| {
            let (key, value) = line.split_once('=')?;
            Some(Line {
                file: file.to_owned(),
                number: index + 1,
                key: key.trim().to_owned(),
                value: value.split_whitespace().collect::<Vec<_>>().join(" "),
            })
        })
        .collect()
}
