//! The admin interface: which paths there are, and what each asks of the supervisor.
//! Owns the table of paths. Never holds a count or a setting: every answer is made by the supervisor when it is asked,
//! and nothing changes state by GET.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::door::{self, Guarded, Rules};
use super::problem::Problem;
use super::roll::{LIMIT_MAX, Query};
use crate::config::snapshot::Prefix;
use crate::config::value::SourcePrefix;
use crate::proxy::settings::Order;
use crate::telemetry::latency::Stage;

/// Questions that wait for the supervisor: as many as connections, so that a full queue means it hangs.
pub const QUESTIONS_WAITING_MAX: usize = 128;

/// The supervisor asks each worker for its counts; one that does not answer by then is busy or dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the supervisor still turns.
    Health,
    Readiness,
    Metrics,
    Status,
    Workers,
    Latency,
    Distribution(Stage),
    Configuration,
    Pools,
    /// What the operator wants of a backend.
    Order {
        pool: Box<str>,
        backend: Box<str>,
        order: Order,
    },
    Connections(Query),
    Drain,
    Reload,
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    Json(StatusCode, Value),
    Text(&'static str, String),
    Problem(Problem),
}

/// A question and where its answer goes.
pub struct Asked {
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

/// The way to the supervisor.
pub type Questions = mpsc::Sender<Asked>;

/// Media type of the metrics (OpenMetrics 1.0).
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// One path: method, path, what it is, and the media type of its good answer.
struct Entry {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    media: &'static str,
    question: Asks,
}

enum Asks {
    Supervisor(Question),
    Order(Order),
    Stage,
    Connections,
    Dashboard,
    Document,
}

/// Every path there is, as the router and the OpenAPI document have it.
const ENTRIES: [Entry; 17] = {
    use Asks::{Connections, Dashboard, Document, Stage, Supervisor};
    const fn order(path: &'static str, summary: &'static str, order: Order) -> Entry {
        Entry {
            method: "post",
            path,
            summary,
            media: "application/json",
            question: Asks::Order(order),
        }
    }
    const fn entry(
        method: &'static str,
        path: &'static str,
        summary: &'static str,
        media: &'static str,
        question: Asks,
    ) -> Entry {
        Entry { method, path, summary, media, question }
    }
    const JSON: &str = "application/json";
    [
        entry("get", "/", "Dashboard page", "text/html", Dashboard),
        entry("get", "/metrics", "OpenMetrics", OPEN_METRICS, Supervisor(Question::Metrics)),
        entry("get", "/healthz", "200 while the process works", JSON, Supervisor(Question::Health)),
        entry(
            "get",
            "/readyz",
            "200 while new calls are welcome; 503 while draining or without a usable backend",
            JSON,
            Supervisor(Question::Readiness),
        ),
        entry("get", "/v1/status", "State of the process", JSON, Supervisor(Question::Status)),
        entry("get", "/v1/workers", "State of each worker", JSON, Supervisor(Question::Workers)),
        entry(
            "get",
            "/v1/pools",
            "Pools and backends: what each worker sees of them, and why",
            JSON,
            Supervisor(Question::Pools),
        ),
        order(
            "/v1/pools/{pool}/backends/{name}/drain",
            "Nothing new for this backend; dialogs that it holds go on",
            Order::Drain,
        ),
        order(
            "/v1/pools/{pool}/backends/{name}/down",
            "No connection and no request for this backend",
            Order::Down,
        ),
        order("/v1/pools/{pool}/backends/{name}/up", "The backend is used again", Order::Up),
        entry(
            "get",
            "/v1/latency",
            "Percentiles of every stage, in nanoseconds, since the start",
            JSON,
            Supervisor(Question::Latency),
        ),
        entry(
            "get",
            "/v1/latency/{stage}",
            "HdrHistogram percentile distribution of a stage, in microseconds: {stage}.hgrm",
            PLAIN,
            Stage,
        ),
        entry("get", "/v1/openapi.json", "This document", JSON, Document),
        entry(
            "get",
            "/v1/connections",
            "Open connections, a page at a time, and how many each verified identity has",
            JSON,
            Connections,
        ),
        entry(
            "get",
            "/v1/config",
            "The settled configuration, without secrets",
            JSON,
            Supervisor(Question::Configuration),
        ),
        entry(
            "post",
            "/v1/drain",
            "No new work; the process ends when the last connection has gone, or at drain.deadline",
            JSON,
            Supervisor(Question::Drain),
        ),
        entry(
            "post",
            "/v1/reload",
            "Read the configuration again; a faulty one changes nothing",
            JSON,
            Supervisor(Question::Reload),
        ),
    ]
};

/// What the metrics listener does not show.
const ADMIN_ONLY: [&str; 2] = ["/v1/config", "/v1/connections"];

/// Serves the whole interface until the process ends.
pub async fn serve(listener: Guarded, rules: Rules, questions: Questions) {
    let _ = axum::serve(listener, router(&rules, &questions, |_| true)).await;
}

/// Serves what may be seen by everybody who reaches the address.
pub async fn serve_metrics(listener: Guarded, rules: Rules, questions: Questions) {
    let shown = |entry: &Entry| entry.method == "get" && !ADMIN_ONLY.contains(&entry.path);
    let _ = axum::serve(listener, router(&rules, &questions, shown)).await;
}

fn router(rules: &Rules, questions: &Questions, shown: impl Fn(&Entry) -> bool) -> Router {
    let mut router = Router::new();
    for entry in ENTRIES.iter().filter(|entry| shown(entry)) {
        let questions = questions.clone();
        let route = match &entry.question {
            Asks::Dashboard => get(async || dashboard()),
            Asks::Document => get(async || json_response(StatusCode::OK, &document())),
            Asks::Connections => get(move |RawQuery(text)| connections(questions, text)),
            Asks::Stage => get(move |Path(name): Path<String>| distribution(questions, name)),
            &Asks::Order(order) => post(move |Path((pool, backend)): Path<(String, String)>| {
                let (pool, backend) = (pool.into(), backend.into());
                ask(questions, Question::Order { pool, backend, order })
            }),
            Asks::Supervisor(question) => {
                let question = question.clone();
                let handler = move || ask(questions, question);
                if entry.method == "post" { post(handler) } else { get(handler) }
            }
        };
        router = router.route(entry.path, route);
    }
    let rules = rules.clone();
    router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "see /v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "see /v1/openapi.json")
        })
        .layer(axum::middleware::from_fn(move |request, next| {
            door::guard(rules.clone(), request, next)
        }))
}

async fn ask(questions: Questions, question: Question) -> Response {
    let (answer, answered) = oneshot::channel();
    if questions.try_send(Asked { question, answer }).is_err() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many questions wait")
            .into_response();
    }
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) => answer.into_response(),
        Ok(Err(_)) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping").into_response()
        }
        Err(_) => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "the supervisor is busy").into_response()
        }
    }
}

/// The parameters of `/v1/connections`: name, form, meaning.
const PARAMETERS: [(&str, &str, &str); 3] = [
    ("prefix", "10.0.0.0/8", "connections of peers in this prefix only"),
    ("limit", "100", "connections in the answer, at most 1000"),
    ("after", "0-17", "what `next` of the page before said"),
];

async fn connections(questions: Questions, text: Option<String>) -> Response {
    match query(text.as_deref().unwrap_or("")) {
        Ok(query) => ask(questions, Question::Connections(query)).await,
        Err(detail) => Problem::new(StatusCode::BAD_REQUEST, detail).into_response(),
    }
}

/// Reads a query string; a fault says which parameter, and what it looks like.
fn query(text: &str) -> Result<Query, String> {
    let mut query = Query::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Of what a client may write in escapes, only these stand in our values.
        let value = value.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":");
        let value = value.replace("%3a", ":");
        let read = match name {
            "prefix" => prefix(&value).map(|prefix| query.prefix = Some(prefix)),
            "limit" => match value.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => {
                    query.limit = limit;
                    Some(())
                }
                _ => None,
            },
            "after" => value.split_once('-').and_then(|(worker, slot)| {
                query.after = Some((worker.parse().ok()?, slot.parse().ok()?));
                Some(())
            }),
            _ => None,
        };
        if read.is_none() {
            let known = PARAMETERS.iter().find(|(known, ..)| *known == name);
            return Err(match known {
                Some((name, form, meaning)) => {
                    format!("{name} is written {name}={form}: {meaning}")
                }
                None => "the parameters are prefix, limit and after".to_owned(),
            });
        }
    }
    Ok(query)
}

/// A prefix, or one address.
fn prefix(text: &str) -> Option<Prefix> {
    let whole = match (text.contains('/'), text.contains(':')) {
        (true, _) => text.to_owned(),
        (false, true) => format!("{text}/128"),
        (false, false) => format!("{text}/32"),
    };
    let text: StrDeserializer<'_, serde::de::value::Error> = whole.as_str().into_deserializer();
    SourcePrefix::deserialize(text).ok().map(|prefix| prefix.0)
}

async fn distribution(questions: Questions, name: String) -> Response {
    match name.strip_suffix(".hgrm").and_then(Stage::named) {
        Some(stage) => ask(questions, Question::Distribution(stage)).await,
        None => {
            let names: Vec<String> =
                Stage::ALL.iter().map(|stage| format!("{}.hgrm", stage.name())).collect();
            let detail = format!("there are {}", names.join(", "));
            Problem::new(StatusCode::NOT_FOUND, detail).into_response()
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Answer::Json(status, value) => json_response(status, &value),
            Answer::Text(media, text) => text_response(media, text),
            Answer::Problem(problem) => problem.into_response(),
        }
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = text_response("application/json", format!("{value:#}\n"));
    *response.status_mut() = status;
    response
}

fn text_response(media: &'static str, text: String) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The page is whole in itself: it loads nothing from elsewhere, and its policy forbids that it ever does.
fn dashboard() -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                          connect-src 'self'; frame-ancestors 'none'";
    let page = include_str!("dashboard.html").to_owned();
    let mut response = text_response("text/html; charset=utf-8", page);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// The OpenAPI 3.1 document, made from the table of paths.
fn document() -> Value {
    let problem = json!({
        "description": "What is wrong (RFC 9457)",
        "content": {"application/problem+json": {"schema": {"type": "object"}}},
    });
    let mut paths = serde_json::Map::new();
    for entry in &ENTRIES {
        let mut operation = json!({
            "summary": entry.summary,
            "responses": {
                "200": {"description": entry.summary, "content": {entry.media: {}}},
                "default": problem,
            },
        });
        if entry.path.contains("{stage}") {
            let names: Vec<String> =
                Stage::ALL.iter().map(|stage| format!("{}.hgrm", stage.name())).collect();
            operation["parameters"] = json!([{
                "name": "stage", "in": "path", "required": true,
                "schema": {"type": "string", "enum": names},
            }]);
        } else if entry.path.contains("{pool}") {
            let name = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
            operation["parameters"] = json!([name("pool"), name("name")]);
        }
        if matches!(entry.question, Asks::Connections) {
            let parameters = PARAMETERS.map(|(name, form, meaning)| {
                json!({
                    "name": name, "in": "query", "description": meaning, "example": form,
                    "schema": {"type": "string"},
                })
            });
            operation["parameters"] = json!(parameters);
        }
        paths.insert(entry.path.to_owned(), json!({entry.method: operation}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "ringfront admin", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

    use super::super::door::Door;
    use super::*;

    /// A supervisor that answers each question by its name.
    fn supervisor() -> Questions {
        let (questions, mut asked) = mpsc::channel::<Asked>(8);
        tokio_uring::spawn(async move {
            while let Some(Asked { question, answer }) = asked.recv().await {
                let status = match question {
                    Question::Readiness => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::OK,
                };
                let _ = answer.send(match question {
                    Question::Metrics => Answer::Text(OPEN_METRICS, "# EOF\n".to_owned()),
                    Question::Distribution(_) => Answer::Text(PLAIN, "#[Mean".to_owned()),
                    _ => Answer::Json(status, json!({"question": format!("{question:?}")})),
                });
            }
        });
        questions
    }

    async fn exchange(
        mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
        request: &str,
        headers: &str,
    ) -> (u16, String) {
        let text = format!("{request} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response)
    }

    async fn metrics_listener(questions: Questions) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Rules::metrics(address);
        tokio::spawn(serve_metrics(Guarded::new(Door::Tcp(listener)), rules, questions));
        address
    }

    #[test]
    fn every_path_is_answered_and_documented() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        tokio_uring::start(async {
            let listener = UnixListener::bind(&path).unwrap();
            let owner = std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().unwrap());
            let guarded = Guarded::new(Door::Unix(listener, owner));
            tokio::spawn(serve(guarded, Rules::unix(), supervisor()));
            let document = document();
            for entry in &ENTRIES {
                assert!(document["paths"][entry.path][entry.method].is_object(), "{}", entry.path);
                let request = format!(
                    "{} {}",
                    entry.method.to_uppercase(),
                    entry
                        .path
                        .replace("{stage}", "proxy_request.hgrm")
                        .replace("{pool}", "registrars")
                        .replace("{name}", "r1")
                );
                let stream = UnixStream::connect(&path).await.unwrap();
                let (status, response) = exchange(stream, &request, "Host: ringfront\r\n").await;
                let expected = if entry.path == "/readyz" { 503 } else { 200 };
                assert_eq!(status, expected, "{request}: {response}");
                let media = format!("content-type: {}", entry.media);
                assert!(response.contains(&media), "{request}: {response}");
            }
        });
    }

    #[test]
    fn a_get_changes_nothing_and_the_metrics_listener_only_shows() {
        tokio_uring::start(async {
            let address = metrics_listener(supervisor()).await;
            let host = format!("Host: {address}\r\n");
            for (request, expected) in [
                ("GET /metrics", 200),
                ("HEAD /metrics", 200),
                ("GET /v1/latency/backend.hgrm", 200),
                ("GET /v1/latency/backend", 404),
                ("GET /v1/latency/nothing.hgrm", 404),
                ("POST /metrics", 405),
                ("POST /v1/drain", 404),
                ("GET /v1/pools", 200),
                ("POST /v1/pools/registrars/backends/r1/down", 404),
                ("GET /v1/drain", 404),
                ("GET /v1/config", 404),
                ("GET /../etc/passwd", 404),
            ] {
                let stream = TcpStream::connect(address).await.unwrap();
                let (status, response) = exchange(stream, request, &host).await;
                assert_eq!(status, expected, "{request}: {response}");
                if status >= 400 {
                    assert!(response.contains("application/problem+json"), "{request}: {response}");
                }
            }
            let stream = TcpStream::connect(address).await.unwrap();
            let (status, _) = exchange(stream, "GET /metrics", "Host: evil.example\r\n").await;
            assert_eq!(status, 421);
        });
    }

    #[test]
    fn the_parameters_of_connections_are_read_or_told() {
        assert_eq!(query(""), Ok(Query::default()));
        let asked = query("prefix=10.0.0.0%2F8&limit=7&after=1-20").unwrap();
        assert_eq!((asked.limit, asked.after), (7, Some((1, 20))));
        assert!(asked.prefix.unwrap().contains([10, 9, 9, 9].into()));
        assert_eq!(query("prefix=2001:db8::1").unwrap().prefix.unwrap().bits, 128);
        for bad in ["limit=0", "limit=1001", "limit", "after=1", "prefix=10.0.0.0/33", "x=1"] {
            let told = query(bad).unwrap_err();
            assert!(told.contains(&bad[..1]), "{bad}: {told}");
        }
    }

    #[test]
    fn a_silent_supervisor_is_a_503_and_not_a_hang() {
        tokio_uring::start(async {
            let (questions, asked) = mpsc::channel::<Asked>(8);
            drop(asked);
            let address = metrics_listener(questions).await;
            let stream = TcpStream::connect(address).await.unwrap();
            let host = format!("Host: {address}\r\n");
            let (status, _) = exchange(stream, "GET /healthz", &host).await;
            assert_eq!(status, 503);
        });
    }
}
