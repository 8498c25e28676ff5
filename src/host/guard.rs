//! The UDP guard and the untracking of SIP, as nftables tables of our own: `netdev ringfront`, `inet ringfront` and
//! `inet ringfront_notrack`. Owns the rule sets and how they are recognised. Never touches another table.
//! Invariant: a change is one transaction; a table that is not wholly ours is `foreign` and kept as nft prints it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The packet filter's two tunables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    Guard,
    Notrack,
}

impl Filter {
    /// The name after `nft:` in the catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Filter::Guard => "guard",
            Filter::Notrack => "notrack",
        }
    }

    pub fn of(name: &str) -> Option<Filter> {
        [Filter::Guard, Filter::Notrack].into_iter().find(|filter| filter.name() == name)
    }

    /// Family and name of its tables.
    const fn tables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Filter::Guard => &[("netdev", "ringfront"), ("inet", "ringfront")],
            Filter::Notrack => &[("inet", "ringfront_notrack")],
        }
    }
}

/// Nothing of ours is loaded.
pub const ABSENT: &str = "absent";
/// What precedes the listing of tables that are not ours, or not any more.
const FOREIGN: &str = "foreign";

/// Why the filter could not be read or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardFault {
    #[error("the command nft is not installed (apt-get install nftables)")]
    NoCommand,
    #[error("needs CAP_NET_ADMIN")]
    NoPrivilege,
    #[error("this kernel has no nf_tables")]
    NotOffered,
    #[error("nft: {0}")]
    Refused(String),
}

/// The packet filter of one network namespace.
pub trait Firewall {
    /// `absent`, a plan's text (see [`Plan`]), or `foreign` and the listing.
    fn read(&self, filter: Filter) -> Result<String, GuardFault>;
    /// Makes it so, in one transaction.
    fn write(&self, filter: Filter, value: &str) -> Result<(), GuardFault>;
    /// The first rule elsewhere that needs connection tracking, as `family table chain`.
    fn stateful(&self) -> Result<Option<String>, GuardFault>;
}

/// What one of the filters is to be. Its text is what [`Firewall`] reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub filter: Filter,
    pub ports: BTreeSet<u16>,
    /// Interfaces with an ingress chain; none for `notrack`.
    pub interfaces: BTreeSet<String>,
}

/// Raised when the rules change, so that an older guard is drift.
const VERSION: u32 = 1;

impl Plan {
    pub fn text(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let ports = ports.join(",");
        match self.filter {
            Filter::Notrack => format!("notrack {VERSION} ports={ports}"),
            Filter::Guard => {
                let interfaces: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
                format!("guard {VERSION} ports={ports} interfaces={}", interfaces.join(","))
            }
        }
    }

    pub fn parse(filter: Filter, text: &str) -> Option<Plan> {
        let rest = text.strip_prefix(filter.name())?.trim_start();
        let mut words = rest.split(' ');
        if words.next()?.parse() != Ok(VERSION) {
            return None;
        }
        let ports = words.next()?.strip_prefix("ports=")?;
        let ports: Option<BTreeSet<u16>> = ports.split(',').map(|port| port.parse().ok()).collect();
        let mut interfaces = BTreeSet::new();
        if filter == Filter::Guard {
            let list = words.next()?.strip_prefix("interfaces=")?;
            interfaces = list.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        }
        Some(Plan { filter, ports: ports?, interfaces })
    }
}

/// The transport protocols that the guard drops; nft's own names.
pub const PROTOCOLS: [&str; 4] = ["udp", "udplite", "sctp", "dccp"];
/// nft's names of the two families, as the values of `meta nfproto` and of the counters.
pub const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
/// Before connection tracking reassembles fragments (-400), so that a first fragment dies alone.
const PRIORITY: i32 = -500;

/// The transaction of nft(8)'s JSON that makes `filter` what `value` says; `None` where `value` is a listing.
pub fn transaction(filter: Filter, value: &str) -> Option<Value> {
    let mut commands = Vec::new();
    for (family, name) in filter.tables() {
        // Adding first makes deleting safe whether or not the table is there.
        commands.push(json!({"add": {"table": {"family": family, "name": name}}}));
        commands.push(json!({"delete": {"table": {"family": family, "name": name}}}));
    }
    if value != ABSENT {
        let plan = Plan::parse(filter, value)?;
        match filter {
            Filter::Guard => guard_commands(&plan, &mut commands),
            Filter::Notrack => notrack_commands(&plan, &mut commands),
        }
    }
    Some(json!({ "nftables": commands }))
}

fn table_commands(commands: &mut Vec<Value>, family: &str, name: &str, ports: &BTreeSet<u16>) {
    commands.push(json!({"add": {"table": {"family": family, "name": name}}}));
    commands.push(json!({"add": {"set": {
        "family": family, "table": name, "name": "sip_ports", "type": "inet_service",
        "elem": ports.iter().collect::<Vec<_>>(),
    }}}));
}

fn guard_commands(plan: &Plan, commands: &mut Vec<Value>) {
    table_commands(commands, "inet", "ringfront", &plan.ports);
    for hook in ["prerouting", "output"] {
        commands.push(json!({"add": {"chain": {
            "family": "inet", "table": "ringfront", "name": hook,
            "type": "filter", "hook": hook, "prio": PRIORITY, "policy": "accept",
        }}}));
        drop_commands(commands, "inet", hook, hook);
    }
    if plan.interfaces.is_empty() {
        return;
    }
    table_commands(commands, "netdev", "ringfront", &plan.ports);
    for (index, interface) in plan.interfaces.iter().enumerate() {
        let chain = format!("ingress_{interface}");
        commands.push(json!({"add": {"chain": {
            "family": "netdev", "table": "ringfront", "name": chain, "dev": interface,
            "type": "filter", "hook": "ingress", "prio": PRIORITY, "policy": "accept",
        }}}));
        // The counters are one set for all interfaces.
        if index == 0 {
            counter_commands(commands, "netdev", "ingress");
        }
        rule_commands(commands, "netdev", &chain, "ingress");
    }
}

fn drop_commands(commands: &mut Vec<Value>, family: &str, chain: &str, layer: &str) {
    counter_commands(commands, family, layer);
    rule_commands(commands, family, chain, layer);
}

fn counter_commands(commands: &mut Vec<Value>, family: &str, layer: &str) {
    for (protocol, version) in shapes() {
        commands.push(json!({"add": {"counter": {
            "family": family, "table": "ringfront", "name": format!("{layer}_{protocol}_{version}"),
        }}}));
    }
}

fn rule_commands(commands: &mut Vec<Value>, family: &str, chain: &str, layer: &str) {
    for (protocol, version) in shapes() {
        // A netdev chain has no nfproto; there the frame's own protocol tells (after the kernel has taken a tag off).
        let version_match = if family == "netdev" {
            let ether = if version == "ipv4" { "ip" } else { "ip6" };
            json!({"match": {"op": "==", "left": {"meta": {"key": "protocol"}}, "right": ether}})
        } else {
            json!({"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": version}})
        };
        commands.push(json!({"add": {"rule": {
            "family": family, "table": "ringfront", "chain": chain,
            "comment": rule_comment(protocol, version),
            "expr": [
                version_match,
                // meta l4proto skips IPv6 extension headers.
                {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": protocol}},
                {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": "@sip_ports"}},
                {"counter": format!("{layer}_{protocol}_{version}")},
                {"drop": null},
            ],
        }}}));
    }
}

fn shapes() -> impl Iterator<Item = (&'static str, &'static str)> {
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| FAMILIES.into_iter().map(move |version| (protocol, version)))
}

fn rule_comment(protocol: &str, version: &str) -> String {
    format!("ringfront {VERSION}: {protocol} {version}")
}

fn notrack_commands(plan: &Plan, commands: &mut Vec<Value>) {
    let table = "ringfront_notrack";
    table_commands(commands, "inet", table, &plan.ports);
    for hook in ["prerouting", "output"] {
        // raw: before connection tracking looks (-200).
        commands.push(json!({"add": {"chain": {
            "family": "inet", "table": table, "name": hook,
            "type": "filter", "hook": hook, "prio": -300, "policy": "accept",
        }}}));
        for field in ["dport", "sport"] {
            commands.push(json!({"add": {"rule": {
                "family": "inet", "table": table, "chain": hook,
                "comment": format!("ringfront {VERSION}: {field}"),
                "expr": [
                    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": field}}, "right": "@sip_ports"}},
                    {"notrack": null},
                ],
            }}}));
        }
    }
}

/// What would be typed to make `filter` so.
pub fn literal(filter: Filter, value: &str) -> String {
    if value == ABSENT {
        let tables = filter.tables().iter();
        let deletes: Vec<String> =
            tables.map(|(family, name)| format!("nft delete table {family} {name}")).collect();
        return deletes.join("; ");
    }
    let text = match Plan::parse(filter, value) {
        Some(plan) => native(&plan),
        None => listing(filter, value),
    };
    format!("nft -f - <<'EOF'\n{text}EOF")
}

/// The same rules in nft's own words, one transaction: for people, for scripts, and for `tuning/nftables/`.
pub fn native(plan: &Plan) -> String {
    let ports: Vec<String> = plan.ports.iter().map(u16::to_string).collect();
    let set = format!(
        "\tset sip_ports {{\n\t\ttype inet_service\n\t\telements = {{ {} }}\n\t}}\n",
        ports.join(", ")
    );
    let mut text = String::new();
    for (family, name) in plan.filter.tables() {
        text.push_str(&format!("table {family} {name}\ndelete table {family} {name}\n"));
    }
    if plan.filter == Filter::Notrack {
        text.push_str(&format!("table inet ringfront_notrack {{\n{set}"));
        for hook in ["prerouting", "output"] {
            text.push_str(&format!(
                "\tchain {hook} {{\n\t\ttype filter hook {hook} priority -300; policy accept;\n"
            ));
            for field in ["dport", "sport"] {
                text.push_str(&format!(
                    "\t\ttcp {field} @sip_ports notrack comment \"ringfront {VERSION}: {field}\"\n"
                ));
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        return text;
    }
    text.push_str(&format!("table inet ringfront {{\n{set}"));
    for hook in ["prerouting", "output"] {
        native_counters(&mut text, hook);
        native_chain(&mut text, "inet", hook, hook, "");
    }
    text.push_str("}\n");
    if !plan.interfaces.is_empty() {
        text.push_str(&format!("table netdev ringfront {{\n{set}"));
        native_counters(&mut text, "ingress");
        for interface in &plan.interfaces {
            let device = format!(" device \"{interface}\"");
            native_chain(&mut text, "netdev", &format!("ingress_{interface}"), "ingress", &device);
        }
        text.push_str("}\n");
    }
    text
}

fn native_counters(text: &mut String, layer: &str) {
    for (protocol, version) in shapes() {
        text.push_str(&format!("\tcounter {layer}_{protocol}_{version} {{ }}\n"));
    }
}

fn native_chain(text: &mut String, family: &str, chain: &str, hook: &str, device: &str) {
    text.push_str(&format!(
        "\tchain {chain} {{\n\t\ttype filter hook {hook}{device} priority {PRIORITY}; policy accept;\n"
    ));
    for (protocol, version) in shapes() {
        let version_match = match (family, version) {
            ("netdev", "ipv4") => "meta protocol ip".to_owned(),
            ("netdev", _) => "meta protocol ip6".to_owned(),
            _ => format!("meta nfproto {version}"),
        };
        text.push_str(&format!(
            "\t\t{version_match} meta l4proto {protocol} th dport @sip_ports counter name {hook}_{protocol}_{version} \
             drop comment \"{}\"\n",
            rule_comment(protocol, version)
        ));
    }
    text.push_str("\t}\n");
}

/// The text transaction that puts a foreign listing back.
fn listing(filter: Filter, value: &str) -> String {
    let mut text = String::new();
    for (family, name) in filter.tables() {
        text.push_str(&format!("table {family} {name}\ndelete table {family} {name}\n"));
    }
    text.push_str(value.strip_prefix(FOREIGN).unwrap_or_default());
    text
}

/// What the JSON listings of a filter's tables amount to; `None`: not ours, or altered.
fn recognise(filter: Filter, objects: &[Value]) -> Option<Plan> {
    let mut seen = Seen::default();
    for object in objects {
        seen.take(filter, object)?;
    }
    let ports = seen.ports.take()?;
    let plan = Plan { filter, ports, interfaces: seen.interfaces.clone() };
    (seen.chains == expected_chains(&plan) && seen.rules == expected_rules(&plan)).then_some(plan)
}

#[derive(Default)]
struct Seen {
    ports: Option<BTreeSet<u16>>,
    interfaces: BTreeSet<String>,
    chains: BTreeSet<String>,
    /// A list, not a set: a rule that stands twice is an alteration.
    rules: Vec<String>,
}

impl Seen {
    fn take(&mut self, filter: Filter, object: &Value) -> Option<()> {
        if let Some(set) = object.get("set") {
            let ports: Option<BTreeSet<u16>> = match set.get("elem") {
                Some(Value::Array(list)) => {
                    list.iter().map(|port| port.as_u64()?.try_into().ok()).collect()
                }
                _ => None,
            };
            // Both tables must say the same.
            if self.ports.is_some() && self.ports != ports {
                return None;
            }
            self.ports = Some(ports?);
        } else if let Some(chain) = object.get("chain") {
            let text = |key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("name");
            if text("family") == "netdev" {
                let interface = name.strip_prefix("ingress_")?;
                // nft 1.0.6 leaves the device out of its JSON; newer ones tell it.
                if let Some(device) = chain.get("dev").and_then(Value::as_str)
                    && device != interface
                {
                    return None;
                }
                self.interfaces.insert(interface.to_owned());
            }
            let priority = chain.get("prio").and_then(Value::as_i64).unwrap_or_default();
            self.chains.insert(format!(
                "{} {name} {} {priority} {}",
                text("family"),
                text("hook"),
                text("policy")
            ));
        } else if let Some(rule) = object.get("rule") {
            let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
            let expressions = rule.get("expr").and_then(Value::as_array)?;
            let end = if filter == Filter::Guard { "drop" } else { "notrack" };
            let on_ports = expressions.iter().any(|one| {
                one.pointer("/match/right").and_then(Value::as_str) == Some("@sip_ports")
            });
            if !on_ports || expressions.last()?.get(end).is_none() {
                return None;
            }
            self.rules.push(format!("{} {} {}", text("family"), text("chain"), text("comment")));
        }
        Some(())
    }
}

fn expected(plan: &Plan) -> Vec<Value> {
    let transaction = transaction(plan.filter, &plan.text()).unwrap_or_default();
    let commands = transaction.get("nftables").and_then(Value::as_array).cloned();
    let commands = commands.unwrap_or_default().into_iter();
    commands.filter_map(|mut command| command.get_mut("add").map(Value::take)).collect()
}

fn expected_chains(plan: &Plan) -> BTreeSet<String> {
    let mut seen = Seen::default();
    for object in expected(plan) {
        seen.take(plan.filter, &object);
    }
    seen.chains
}

fn expected_rules(plan: &Plan) -> Vec<String> {
    let mut seen = Seen::default();
    // The order of tables differs between what is sent and what is listed; within a chain it is the same.
    let mut objects = expected(plan);
    objects.sort_by_key(|object| {
        object.pointer("/rule/family").and_then(Value::as_str) != Some("netdev")
    });
    for object in objects {
        seen.take(plan.filter, &object);
    }
    seen.rules
}

/// The command nft(8) of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct NftCommand;

impl NftCommand {
    fn run(arguments: &[&str], input: &str) -> Result<String, GuardFault> {
        // Ordinary users' PATH has no sbin.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut child = Command::new("nft")
            .args(arguments)
            .env("PATH", path)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => GuardFault::NoCommand,
                _ => GuardFault::Refused(error.to_string()),
            })?;
        let broken = |error: std::io::Error| GuardFault::Refused(error.to_string());
        if let Some(mut stdin) = child.stdin.take() {
            // A refusal may come before nft has read it all; its own words matter more than a broken pipe.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(broken)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("failed");
        Err(if words.contains("Operation not permitted") {
            GuardFault::NoPrivilege
        } else if words.contains("Operation not supported")
            || words.contains("Protocol not supported")
        {
            GuardFault::NotOffered
        } else {
            GuardFault::Refused(first.trim().to_owned())
        })
    }

    fn objects(arguments: &[&str]) -> Result<Vec<Value>, GuardFault> {
        let text = Self::run(arguments, "")?;
        let mut value: Value = serde_json::from_str(&text)
            .map_err(|fault| GuardFault::Refused(format!("its JSON is not understood: {fault}")))?;
        match value.get_mut("nftables").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Err(GuardFault::Refused("its JSON has no `nftables`".into())),
        }
    }

    fn present(filter: Filter) -> Result<Vec<(&'static str, &'static str)>, GuardFault> {
        let objects = Self::objects(&["-j", "list", "tables"])?;
        let has = |family: &str, name: &str| {
            objects.iter().any(|object| {
                object.pointer("/table/family").and_then(Value::as_str) == Some(family)
                    && object.pointer("/table/name").and_then(Value::as_str) == Some(name)
            })
        };
        Ok(filter.tables().iter().copied().filter(|(family, name)| has(family, name)).collect())
    }
}

impl Firewall for NftCommand {
    fn read(&self, filter: Filter) -> Result<String, GuardFault> {
        let tables = Self::present(filter)?;
        if tables.is_empty() {
            return Ok(ABSENT.into());
        }
        let mut objects = Vec::new();
        for (family, name) in &tables {
            objects.extend(Self::objects(&["-j", "list", "table", family, name])?);
        }
        if let Some(plan) = recognise(filter, &objects) {
            return Ok(plan.text());
        }
        let mut text = format!("{FOREIGN}\n");
        for (family, name) in &tables {
            // Without counter values, so that two readings of the same table are equal.
            text.push_str(&Self::run(&["-s", "list", "table", family, name], "")?);
        }
        Ok(text)
    }

    fn write(&self, filter: Filter, value: &str) -> Result<(), GuardFault> {
        match transaction(filter, value) {
            Some(transaction) => Self::run(&["-j", "-f", "-"], &transaction.to_string())?,
            None => Self::run(&["-f", "-"], &listing(filter, value))?,
        };
        Ok(())
    }

    fn stateful(&self) -> Result<Option<String>, GuardFault> {
        let objects = Self::objects(&["-j", "list", "ruleset"])?;
        let rule = objects.iter().filter_map(|object| object.get("rule")).find(|rule| {
            let text = rule.get("expr").map(Value::to_string).unwrap_or_default();
            ["\"ct\"", "\"dnat\"", "\"snat\"", "\"masquerade\"", "\"redirect\"", "\"xt\""]
                .iter()
                .any(|word| text.contains(word))
        });
        Ok(rule.map(|rule| {
            let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
            format!("{} {} {}", text("family"), text("table"), text("chain"))
        }))
    }
}

/// One counter of the guard: where, what, and how much was dropped since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardCounter {
    /// `ingress`, `prerouting` or `output`.
    pub layer: &'static str,
    /// One of [`PROTOCOLS`].
    pub protocol: &'static str,
    /// One of [`FAMILIES`].
    pub family: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// What the guard of this network namespace has dropped; empty when it is not loaded. Takes about 10 ms (it runs nft)
/// and needs CAP_NET_ADMIN.
pub fn guard_counters() -> Result<Vec<GuardCounter>, GuardFault> {
    let mut counters = Vec::new();
    for (family, name) in NftCommand::present(Filter::Guard)? {
        let objects = NftCommand::objects(&["-j", "list", "counters", "table", family, name])?;
        counters.extend(objects.iter().filter_map(counter_of));
    }
    Ok(counters)
}

fn counter_of(object: &Value) -> Option<GuardCounter> {
    let counter = object.get("counter")?;
    let name = counter.get("name")?.as_str()?;
    let mut parts = name.split('_');
    let (layer, protocol, family) = (parts.next()?, parts.next()?, parts.next()?);
    let known = |word: &str, words: &[&'static str]| words.iter().copied().find(|one| *one == word);
    Some(GuardCounter {
        layer: known(layer, &["ingress", "prerouting", "output"])?,
        protocol: known(protocol, &PROTOCOLS)?,
        family: known(family, &FAMILIES)?,
        packets: counter.get("packets")?.as_u64()?,
        bytes: counter.get("bytes")?.as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(interfaces: &[&str]) -> Plan {
        Plan {
            filter: Filter::Guard,
            ports: [5060, 5061].into(),
            interfaces: interfaces.iter().map(|one| (*one).to_owned()).collect(),
        }
    }

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        for plan in [plan(&[]), plan(&["eth0", "eth1.5"])] {
            assert_eq!(Plan::parse(Filter::Guard, &plan.text()), Some(plan));
        }
        assert_eq!(Plan::parse(Filter::Guard, "guard 99 ports=1 interfaces="), None);
        assert_eq!(Plan::parse(Filter::Guard, "absent"), None);
    }

    #[test]
    fn our_own_rules_are_recognised_and_any_alteration_is_not() {
        let plan = plan(&["eth0"]);
        let mut objects = expected(&plan);
        objects.sort_by_key(|object| {
            object.pointer("/rule/family").and_then(Value::as_str) != Some("netdev")
        });
        assert_eq!(recognise(Filter::Guard, &objects), Some(plan));
        for place in 0..objects.len() {
            if objects[place].get("rule").is_none() && objects[place].get("chain").is_none() {
                continue;
            }
            let mut fewer = objects.clone();
            fewer.remove(place);
            assert_eq!(recognise(Filter::Guard, &fewer), None, "without {}", objects[place]);
        }
        let mut softer = objects.clone();
        let rule = softer.iter_mut().find_map(|object| object.pointer_mut("/rule/expr/4"));
        *rule.unwrap() = json!({"accept": null});
        assert_eq!(recognise(Filter::Guard, &softer), None);
    }

    #[test]
    fn counters_carry_known_labels_only() {
        let counter = |name: &str| json!({"counter": {"name": name, "packets": 3, "bytes": 99}});
        let good = counter_of(&counter("ingress_udplite_ipv6")).unwrap();
        assert_eq!((good.layer, good.protocol, good.family), ("ingress", "udplite", "ipv6"));
        assert_eq!((good.packets, good.bytes), (3, 99));
        assert_eq!(counter_of(&counter("ingress_evil_ipv6")), None);
        assert_eq!(counter_of(&counter("x")), None);
    }
}
