//! The counts as OpenMetrics text: the names that dashboards use (contract "Metrics").
//! Owns names, help and labels. Never a label value that comes from a peer: all are from the configuration or from
//! closed sets.

use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::expiry::{Ending, Kind};
use super::host::{Guard, HostReport};
use super::pools;
use super::resolve::names::Names;
use super::totals::{Reloads, Totals};
use crate::config::snapshot::{Snapshot, Transport};
use crate::proxy;
use crate::proxy::settings::Order;
use crate::telemetry::counter::{
    Closed, Ended, HealthEvent, Outcome, Refused, Retry, TransportRefused,
};
use crate::telemetry::latency::{Latency, Stage};

/// Upper bounds of the buckets of a stage, in nanoseconds: three to a decade, from 1 us to 10 s.
const BUCKETS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The whole exposition.
pub fn metrics(
    totals: &Totals,
    snapshot: &Snapshot,
    orders: &[Order],
    (backend_names, now): (&Names, Instant),
    (endings, reloads): (&[Ending], Reloads),
    host_report: &HostReport,
) -> String {
    let mut families = vec![
        Family::info("ringfront_build", "The program", [("version", env!("CARGO_PKG_VERSION"))]),
        Family::gauge("ringfront_config_generation", "Reloads that took effect")
            .with([], snapshot.generation),
    ];
    connections(&mut families, totals, snapshot);
    families.extend(expiry(endings));
    let results = [("taken_over", reloads.taken_over), ("refused", reloads.refused)];
    families.push(results.into_iter().fold(
        Family::counter("ringfront_reloads", "Reloads of the configuration, by how they went"),
        |family, (result, count)| family.with([("result", result.to_owned())], count),
    ));
    messages(&mut families, totals, snapshot);
    backends(&mut families, totals, snapshot, orders);
    names(&mut families, backend_names, now);
    workers(&mut families, totals);
    host(&mut families, host_report);
    families.push(stages(&totals.latency));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(families)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("a string takes all that is written");
    text
}

/// Drift of the host's tuning and what the UDP guard has dropped; the label values are the catalogue's and the guard's.
fn host(families: &mut Vec<Family>, report: &HostReport) {
    let mut drift =
        Family::gauge("ringfront_tuning_drift", "1: the setting is not as its profile wants it");
    for id in &report.drift {
        drift = drift.with([("id", id.clone())], 1);
    }
    let mut guard = Family::gauge("ringfront_udp_guard", "1 for the state of the UDP guard");
    let mut dropped =
        Family::counter("ringfront_udp_dropped", "Datagrams to a SIP port that the guard dropped");
    for state in [Guard::Loaded(Vec::new()), Guard::Absent, Guard::Unreadable] {
        let holds = state.name() == report.guard.name();
        guard = guard.with([("state", state.name().to_owned())], u64::from(holds));
    }
    if let Guard::Loaded(counters) = &report.guard {
        for one in counters {
            let labels = [
                ("family", one.family.to_owned()),
                ("proto", one.protocol.to_owned()),
                ("layer", one.layer.to_owned()),
            ];
            dropped = dropped.with(labels, one.packets);
        }
    }
    families.extend([drift, guard, dropped]);
}

fn expiry(endings: &[Ending]) -> [Family; 3] {
    let mut certificates = Family::gauge(
        "ringfront_certificate_expiry_timestamp_seconds",
        "When a certificate of ours ends, in seconds since 1970",
    );
    let mut authorities = Family::gauge(
        "ringfront_authority_expiry_timestamp_seconds",
        "When a CA that we trust ends, in seconds since 1970",
    );
    let mut lists = Family::gauge(
        "ringfront_revocation_list_expiry_timestamp_seconds",
        "When the next one of a revocation list is due, in seconds since 1970",
    );
    for one in endings {
        let (place, name) = (one.place.clone(), one.name.clone());
        let end = u64::try_from(one.not_after).unwrap_or(0);
        match one.kind {
            Kind::Certificate => {
                certificates = certificates.with([("place", place), ("chain", name)], end);
            }
            Kind::Authority => {
                authorities = authorities.with([("place", place), ("subject", name)], end);
            }
            Kind::RevocationList => lists = lists.with([("issuer", name)], end),
        }
    }
    [certificates, authorities, lists]
}

fn zone_name(snapshot: &Snapshot, zone: usize) -> String {
    // A zone that a reload took away keeps its counts.
    snapshot.zones.get(zone).map_or_else(|| format!("removed-{zone}"), |zone| zone.name.to_string())
}

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

fn connections(families: &mut Vec<Family>, totals: &Totals, snapshot: &Snapshot) {
    let mut open = Family::gauge("ringfront_connections", "Connections accepted and open");
    for (index, worker) in totals.workers.iter().enumerate() {
        for (zone, counts) in worker.gauges.connections.iter().enumerate() {
            for (transport, count) in TRANSPORTS.into_iter().zip(counts) {
                let labels = [
                    ("zone", zone_name(snapshot, zone)),
                    ("transport", transport.name().to_owned()),
                    ("worker", index.to_string()),
                ];
                open = open.with(labels, *count);
            }
        }
    }
    // A counter of this name would belong to a family that is called like the gauge, which OpenMetrics forbids.
    let mut accepted =
        Family::new("ringfront_connections_total", "Connections accepted", MetricType::Unknown);
    let mut closed = Family::counter(
        "ringfront_connections_closed",
        "Connections refused, closed by us or lost, by cause",
    );
    for (zone, counters) in totals.counters.zones.iter().enumerate() {
        let name = zone_name(snapshot, zone);
        for (transport, count) in TRANSPORTS.into_iter().zip(counters.connections) {
            let labels = [("zone", name.clone()), ("transport", transport.name().to_owned())];
            accepted = accepted.with(labels, count);
        }
        for &cause in Closed::ALL {
            let labels = [("zone", name.clone()), ("cause", cause.name().to_owned())];
            closed = closed.with(labels, counters.closed[cause as usize]);
        }
    }
    let mut handshakes = Family::counter("ringfront_handshakes", "TLS handshakes that ended");
    for (label, &count) in &totals.counters.handshakes {
        let labels = [
            ("zone", zone_name(snapshot, usize::from(label.zone))),
            ("version", label.version.to_owned()),
            ("group", label.group.to_owned()),
            ("resumed", label.resumed.to_string()),
            ("result", label.result.to_owned()),
        ];
        handshakes = handshakes.with(labels, count);
    }
    let mut alerts = Family::counter("ringfront_tls_alerts", "TLS alerts sent and received");
    for (label, &count) in &totals.counters.alerts {
        let labels = [
            ("zone", zone_name(snapshot, usize::from(label.zone))),
            ("direction", if label.sent { "sent" } else { "received" }.to_owned()),
            ("alert", label.alert.to_owned()),
        ];
        alerts = alerts.with(labels, count);
    }
    let mut reported = Family::counter(
        "ringfront_client_certificates_reported",
        "TLS clients let in by client_certificate = \"report\" that \"required\" would refuse",
    );
    for (label, &count) in &totals.counters.reported {
        let zone = zone_name(snapshot, usize::from(label.zone));
        reported = reported.with([("zone", zone), ("reason", label.reason.to_owned())], count);
    }
    families.extend([open, accepted, closed, handshakes, alerts, reported]);
}

fn messages(families: &mut Vec<Family>, totals: &Totals, snapshot: &Snapshot) {
    let counters = &totals.counters;
    let mut received = Family::counter("ringfront_messages_received", "Messages received");
    let mut forwarded = Family::counter("ringfront_messages_forwarded", "Messages sent on");
    let mut pings = Family::counter("ringfront_pings", "CRLF keep-alives answered (RFC 5626)");
    let labels = |zone: &str, kind: &str| [("zone", zone.to_owned()), ("kind", kind.to_owned())];
    for (zone, of) in counters.zones.iter().enumerate() {
        let name = zone_name(snapshot, zone);
        for (method, &count) in proxy::method_names().zip(&of.requests) {
            let [zone, kind] = labels(&name, "request");
            received = received.with([zone, kind, ("method", method.to_owned())], count);
        }
        let [zone, kind] = labels(&name, "response");
        received = received.with([zone, kind, ("method", String::new())], of.responses);
        forwarded = forwarded
            .with(labels(&name, "request"), of.requests_forwarded)
            .with(labels(&name, "response"), of.responses_forwarded);
        pings = pings.with([("zone", name)], of.pings);
    }
    let mut sent = Family::counter("ringfront_responses_sent", "Responses of our own, by status");
    for (status, count) in counters.answers() {
        sent = sent.with([("code", status.to_string())], count);
    }
    let mut refused = Family::counter("ringfront_refused", "Messages not taken further, by reason");
    for &reason in Refused::ALL {
        refused = refused.with([("reason", reason.name().to_owned())], counters.refused(reason));
    }
    let mut faults =
        Family::counter("ringfront_message_faults", "Messages that had a fault, by fault");
    for (fault, &count) in proxy::fault_names().zip(counters.faults()) {
        faults = faults.with([("fault", fault.to_owned())], count);
    }
    let mut transport = Family::counter(
        "ringfront_transport_refused",
        "Places where UDP, or a transport that the zone does not allow, was asked for",
    );
    for &place in TransportRefused::ALL {
        let labels = [("where", place.name().to_owned())];
        transport = transport.with(labels, counters.transport_refused(place));
    }
    let joined = Family::counter("ringfront_messages_joined", "Messages that came in pieces")
        .with([], counters.joined);
    let crossings = Family::counter("ringfront_crossings", "Messages sent on by another worker")
        .with([], counters.crossings);
    let mut retries = Family::counter("ringfront_retries", "Requests sent to another backend");
    for &reason in Retry::ALL {
        let labels = [("reason", reason.name().to_owned())];
        retries = retries.with(labels, counters.retries[reason as usize]);
    }
    let mut ended = Family::counter(
        "ringfront_transactions_ended",
        "Transactions whose state was kept, by how they ended",
    );
    for &end in Ended::ALL {
        ended = ended.with([("end", end.name().to_owned())], counters.ended[end as usize]);
    }
    let stateless = Family::counter(
        "ringfront_transactions_stateless",
        "Requests forwarded without state because as much as may be was kept",
    )
    .with([], counters.stateless);
    families.extend([retries, ended, stateless]);
    families.extend([received, forwarded, pings, sent, refused, faults]);
    families.extend([transport, joined, crossings]);
}

fn backends(families: &mut Vec<Family>, totals: &Totals, snapshot: &Snapshot, orders: &[Order]) {
    let mut up = Family::gauge("ringfront_backend_up", "1 when it takes requests of a worker");
    let mut order =
        Family::gauge("ringfront_backend_order", "1 for what the operator wants of the backend");
    let mut health = Family::counter(
        "ringfront_backend_health",
        "What happened to a backend's health, as each worker saw it",
    );
    let mut requests = Family::counter(
        "ringfront_backend_requests",
        "Requests of a backend, by what became of them",
    );
    for (index, (pool, backend)) in pools::names(snapshot).enumerate() {
        let [of_pool, of_backend] = [("pool", pool.to_owned()), ("backend", backend.to_owned())];
        for of in [Order::Up, Order::Drain, Order::Down] {
            let labels = [of_pool.clone(), of_backend.clone(), ("order", of.name().to_owned())];
            order = order.with(labels, u64::from(orders[index] == of));
        }
        for (&event, count) in
            HealthEvent::ALL.iter().zip(totals.counters.health.get(index).into_iter().flatten())
        {
            let labels = [of_pool.clone(), of_backend.clone(), ("event", event.name().to_owned())];
            health = health.with(labels, *count);
        }
        up = up.with([of_pool.clone(), of_backend.clone()], u64::from(totals.backend_up(index)));
        let Some(counts) = totals.counters.backends.get(index) else { continue };
        for &outcome in Outcome::ALL {
            let labels =
                [of_pool.clone(), of_backend.clone(), ("outcome", outcome.name().to_owned())];
            requests = requests.with(labels, counts[outcome as usize]);
        }
    }
    families.extend([up, order, health, requests]);
}

/// What DNS says of the backends that are written as names.
fn names(families: &mut Vec<Family>, names: &Names, now: Instant) {
    let counts = &names.counts;
    let mut lookups =
        Family::counter("ringfront_dns_lookups", "Names of backends looked up, by what came of it");
    lookups = lookups.with([("result", "answered".to_owned())], counts.answered);
    for (reason, count) in &counts.failed {
        lookups = lookups.with([("result", (*reason).to_owned())], *count);
    }
    let changes = Family::counter("ringfront_dns_changes", "Times that a name led elsewhere")
        .with([], counts.changes);
    let udp = Family::counter("ringfront_dns_udp_discarded", "Services of UDP passed over")
        .with([], counts.udp_discarded);
    let refused = Family::counter(
        "ringfront_dns_addresses_refused",
        "Addresses in answers where no backend may be: loopback, link-local, our own",
    )
    .with([], counts.addresses_refused);
    let mut age = Family::gauge("ringfront_dns_answer_age_seconds", "Age of the last good answer");
    let mut stale =
        Family::gauge("ringfront_dns_failures", "Look-ups that failed since the last answer");
    for name in names.status(now) {
        let labels = || [("pool", name.pool.to_owned()), ("backend", name.backend.to_owned())];
        stale = stale.with(labels(), u64::from(name.failures));
        if let Some(known) = name.age {
            age = age.with(labels(), known.as_secs());
        }
    }
    families.extend([lookups, changes, udp, refused, age, stale]);
}

/// Counters of a worker: metric, help, and the word of `WorkerTotals::words`.
const WORKER_COUNTERS: [(&str, &str, &str); 8] = [
    ("ringfront_syscalls", "Calls into the kernel by the ring", "system_calls"),
    ("ringfront_completions", "Completions taken from the ring", "completions"),
    ("ringfront_loop_turns", "Turns of the loop", "turns"),
    ("ringfront_buffers_starved", "Receives that ended for want of a buffer", "buffers_starved"),
    ("ringfront_completion_overflows", "Overflows of the completion queue", "overflows"),
    ("ringfront_stale_completions", "Completions for a life that was over", "stale_completions"),
    ("ringfront_received_bytes", "Bytes received", "bytes_received"),
    ("ringfront_short_sends", "Sends that the kernel took in part", "short_sends"),
];

fn workers(families: &mut Vec<Family>, totals: &Totals) {
    let label = |index: usize| [("worker", index.to_string())];
    for (name, help, word) in WORKER_COUNTERS {
        let mut family = Family::counter(name, help);
        for (index, worker) in totals.workers.iter().enumerate() {
            family = family.with(label(index), worker.word(word));
        }
        families.push(family);
    }
    let mut panics = Family::counter("ringfront_worker_panics", "Lives that ended by a panic");
    let mut leaked =
        Family::gauge("ringfront_leaked_bytes", "Memory given up with rings of dead lives");
    let mut handshakes = Family::gauge("ringfront_handshakes_open", "TLS handshakes under way");
    let mut shed = Family::gauge(
        "ringfront_overload_shed_permille",
        "New requests that a worker refuses because its turns take too long",
    );
    let mut transactions =
        Family::gauge("ringfront_transactions", "Transactions whose state is kept");
    let mut chunks = Family::gauge("ringfront_send_bytes", "Capacity of send buffers in use");
    for (index, worker) in totals.workers.iter().enumerate() {
        panics = panics.with(label(index), u64::from(worker.panics));
        leaked = leaked.with(label(index), worker.leaked_bytes);
        handshakes = handshakes.with(label(index), worker.gauges.handshakes_open);
        shed = shed.with(label(index), u64::from(worker.gauges.shed));
        transactions = transactions.with(label(index), u64::from(worker.gauges.transactions));
        chunks = chunks.with(label(index), worker.gauges.chunk_bytes_out);
    }
    families.extend([panics, leaked, handshakes, shed, transactions, chunks]);
}

fn stages(latency: &Latency) -> Family {
    let mut family = Family {
        unit: Some(Unit::Seconds),
        ..Family::new(
            "ringfront_stage_latency",
            "Latency of each stage; /v1/latency has it to three digits",
            MetricType::Histogram,
        )
    };
    for stage in Stage::ALL {
        let labels = vec![("stage", stage.name().to_owned())];
        family.samples.push((labels, Value::Histogram(buckets(latency, stage))));
    }
    family
}

/// Sum in seconds, count, and the count of each bucket (not cumulative: the encoder adds them up).
#[derive(Debug)]
struct Histogram {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds below 2^53, and sums are for averages")]
fn buckets(latency: &Latency, stage: Stage) -> Histogram {
    let histogram = latency.histogram(stage);
    let mut counts = [0_u64; BUCKETS.len() + 1];
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let nanos = histogram.median_equivalent(step.value_iterated_to());
        counts[BUCKETS.partition_point(|&bound| bound < nanos)] += step.count_at_value();
        sum += nanos as f64 * step.count_at_value() as f64 / 1e9;
    }
    let bounds = BUCKETS.iter().map(|&bound| bound as f64 / 1e9).chain([f64::INFINITY]);
    Histogram { sum, count: histogram.len(), buckets: bounds.zip(counts).collect() }
}

type Labels = Vec<(&'static str, String)>;

/// One metric with its samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    unit: Option<Unit>,
    samples: Vec<(Labels, Value)>,
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Histogram(Histogram),
    /// The labels say it all.
    Info,
}

impl Family {
    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Family { name, help, kind, unit: None, samples: Vec::new() }
    }

    /// A count that only grows; `_total` is added to its name.
    fn counter(name: &'static str, help: &'static str) -> Self {
        Family::new(name, help, MetricType::Counter)
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Family::new(name, help, MetricType::Gauge)
    }

    fn info<const N: usize>(
        name: &'static str,
        help: &'static str,
        labels: [(&'static str, &str); N],
    ) -> Self {
        let mut family = Family::new(name, help, MetricType::Info);
        let labels = labels.map(|(label, value)| (label, value.to_owned()));
        family.samples.push((labels.to_vec(), Value::Info));
        family
    }

    fn with<const N: usize>(mut self, labels: [(&'static str, String); N], value: u64) -> Self {
        self.samples.push((labels.to_vec(), Value::Number(value)));
        self
    }
}

/// All metrics of one scrape.
#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let metric = encoder.encode_descriptor(
                family.name,
                family.help,
                family.unit.as_ref(),
                family.kind,
            )?;
            family.encode(metric)?;
        }
        Ok(())
    }
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, value) in &self.samples {
            match value {
                Value::Info => encoder.encode_info(labels)?,
                _ if labels.is_empty() => encode(&mut encoder, self.kind, value)?,
                _ => encode(&mut encoder.encode_family(labels)?, self.kind, value)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

fn encode(
    encoder: &mut MetricEncoder<'_>,
    kind: MetricType,
    value: &Value,
) -> Result<(), fmt::Error> {
    type NoLabels = [(&'static str, &'static str); 0];
    match value {
        Value::Number(number) if matches!(kind, MetricType::Counter) => {
            encoder.encode_counter::<NoLabels, _, u64>(number, None)
        }
        Value::Number(number) => encoder.encode_gauge(&i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Histogram(Histogram { sum, count, buckets }) => {
            encoder.encode_histogram::<NoLabels>(*sum, *count, buckets, None)
        }
        Value::Info => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, HostFacts};
    use crate::host::guard::GuardCounter;
    use crate::telemetry::counter::{HandshakeLabel, ReportLabel};

    fn snapshot() -> Snapshot {
        let host = HostFacts {
            cores: vec![0, 1],
            descriptors: 20_000,
            user: 0,
            unix_time: 1_800_000_000,
            ipv6_loopback: true,
        };
        config::load(None, &host).unwrap().snapshot
    }

    fn host_report() -> HostReport {
        let counter = GuardCounter {
            layer: "ingress",
            protocol: "udp",
            family: "ipv4",
            packets: 7,
            bytes: 700,
        };
        HostReport { drift: vec!["tcp.migrate_req".into()], guard: Guard::Loaded(vec![counter]) }
    }

    fn totals(snapshot: &Snapshot) -> Totals {
        let mut totals = Totals::new(&[0, 1], snapshot.zones.len(), 1);
        totals.workers[1].gauges.connections = vec![[1, 2], [0, 0]];
        totals.counters.zones[0].connections = [3, 4];
        totals.counters.zones[0].requests[0] = 11;
        totals.counters.close(0, Closed::TlsOnTcp);
        totals.counters.refuse(Refused::NoBackend);
        totals.counters.answer(503);
        totals.counters.handshakes.insert(
            HandshakeLabel {
                zone: 0,
                version: "1.3",
                group: "X25519",
                resumed: false,
                result: "ok",
            },
            2,
        );
        totals.counters.alert(0, true, "unknown_ca");
        let label = ReportLabel { zone: 0, reason: "certificate_expired" };
        totals.counters.reported.insert(label, 3);
        totals.latency.record_n(Stage::ProxyRequest, 4_000, 5);
        totals.latency.record_n(Stage::ProxyRequest, 4_000_000, 5);
        totals.latency.record(Stage::ProxyRequest, 30_000_000_000);
        totals
    }

    #[test]
    fn the_names_and_labels_are_those_of_the_contract() {
        let snapshot = snapshot();
        let host = crate::config::HostFacts {
            cores: vec![0],
            descriptors: 20_000,
            user: 0,
            unix_time: 1_800_000_000,
            ipv6_loopback: true,
        };
        let control = crate::config::load(None, &host).expect("the embedded default").control;
        let now = tokio::time::Instant::now().into_std();
        let names = Names::new(&control.resolver, &snapshot, now);
        let certificate = Ending::certificate(
            "listener edge-tls".to_owned(),
            "/etc/ringfront/fullchain.pem".to_owned(),
            1_800_000_000,
        );
        let orders = [Order::Drain];
        let certificates = [certificate];
        let text = metrics(
            &totals(&snapshot),
            &snapshot,
            &orders,
            (&names, now),
            (&certificates, Reloads { taken_over: 1, refused: 2 }),
            &host_report(),
        );
        for line in [
            "ringfront_connections{zone=\"edge\",transport=\"tls\",worker=\"1\"} 2",
            "ringfront_connections_total{zone=\"edge\",transport=\"tls\"} 4",
            "ringfront_connections_closed_total{zone=\"edge\",cause=\"tls_on_tcp\"} 1",
            "ringfront_handshakes_total{zone=\"edge\",version=\"1.3\",group=\"X25519\",resumed=\"false\",result=\"ok\"} 2",
            "ringfront_certificate_expiry_timestamp_seconds{place=\"listener edge-tls\",chain=\"/etc/ringfront/fullchain.pem\"} 1800000000",
            "ringfront_tls_alerts_total{zone=\"edge\",direction=\"sent\",alert=\"unknown_ca\"} 1",
            "ringfront_client_certificates_reported_total{zone=\"edge\",reason=\"certificate_expired\"} 3",
            "ringfront_messages_forwarded_total{zone=\"edge\",kind=\"request\"} 0",
            "ringfront_responses_sent_total{code=\"503\"} 1",
            "ringfront_refused_total{reason=\"no_backend\"} 1",
            "ringfront_refused_total{reason=\"loop\"} 0",
            "ringfront_refused_total{reason=\"response_stray\"} 0",
            "ringfront_retries_total{reason=\"connection_lost\"} 0",
            "ringfront_transactions{worker=\"0\"} 0",
            "ringfront_transactions_ended_total{end=\"concluded\"} 0",
            "ringfront_transactions_stateless_total 0",
            "ringfront_transport_refused_total{where=\"request_uri\"} 0",
            "ringfront_backend_up{pool=\"embedded\",backend=\"embedded\"} 0",
            "ringfront_backend_order{pool=\"embedded\",backend=\"embedded\",order=\"drain\"} 1",
            "ringfront_backend_order{pool=\"embedded\",backend=\"embedded\",order=\"up\"} 0",
            "ringfront_backend_health_total{pool=\"embedded\",backend=\"embedded\",event=\"went_down\"} 0",
            "ringfront_backend_requests_total{pool=\"embedded\",backend=\"embedded\",outcome=\"sent\"} 0",
            "ringfront_stage_latency_seconds_bucket{le=\"0.0000025\",stage=\"proxy_request\"} 0",
            "ringfront_stage_latency_seconds_bucket{le=\"0.000005\",stage=\"proxy_request\"} 5",
            "ringfront_stage_latency_seconds_bucket{le=\"10.0\",stage=\"proxy_request\"} 10",
            "ringfront_stage_latency_seconds_bucket{le=\"+Inf\",stage=\"proxy_request\"} 11",
            "ringfront_stage_latency_seconds_count{stage=\"proxy_request\"} 11",
            "ringfront_syscalls_total{worker=\"1\"} 0",
            "ringfront_completions_total{worker=\"0\"} 0",
            "ringfront_loop_turns_total{worker=\"0\"} 0",
            "ringfront_buffers_starved_total{worker=\"0\"} 0",
            "ringfront_crossings_total 0",
            "ringfront_config_generation 0",
            "ringfront_reloads_total{result=\"refused\"} 2",
            "ringfront_tuning_drift{id=\"tcp.migrate_req\"} 1",
            "ringfront_udp_guard{state=\"loaded\"} 1",
            "ringfront_udp_guard{state=\"absent\"} 0",
            "ringfront_udp_dropped_total{family=\"ipv4\",proto=\"udp\",layer=\"ingress\"} 7",
            "ringfront_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|of_text| of_text == line), "{line}\nin\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let first = format!("method=\"{}\"}} 11", proxy::method_names().next().unwrap());
        assert!(text.contains(&first), "{text}");
    }

    #[test]
    fn the_sum_of_a_stage_is_in_seconds() {
        let snapshot = snapshot();
        let totals = totals(&snapshot);
        let sum = buckets(&totals.latency, Stage::ProxyRequest).sum;
        let exact = 5.0 * 4e-6 + 5.0 * 4e-3 + 30.0;
        assert!((sum - exact).abs() < exact / 1000.0, "{sum}");
    }
}
