//! An application in memory, for handlers' tests: SQLite, the in-process transport, a seed.

#![allow(clippy::unwrap_used)]

use crate::authenticate::guard;
use crate::bootstrap::bootstrap;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use berth_controller_core::store::Store;
use berth_controller_core::{ApiSettings, AppState};
use berth_rpc::clock::{SeededRng, SystemClock};
use berth_rpc::{Faults, InProcess};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use tower::ServiceExt as _;

thread_local! {
    /// Images of the applications of this thread's test; they go with the thread.
    static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// The administrator's password in tests.
pub const PASSWORD: &str = "secret";

/// An application with its own database, bootstrapped, and the routes of the services under test.
#[derive(Clone)]
pub struct App {
    state: AppState,
    services: fn() -> Router<AppState>,
}

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.state
    }
}

impl DerefMut for App {
    fn deref_mut(&mut self) -> &mut AppState {
        &mut self.state
    }
}

/// An application that answers for identity alone.
pub async fn app() -> App {
    app_with(Router::new).await
}

/// An application that answers for identity and for `services`.
pub async fn app_with(services: fn() -> Router<AppState>) -> App {
    let rng = Arc::new(SeededRng::new(7));
    let clock = Arc::new(SystemClock::default());
    let store = Store::connect("sqlite::memory:").await.unwrap();
    bootstrap(&store, &*clock, &*rng, PASSWORD).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("images");
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    let state = AppState {
        store,
        transport: InProcess::new(Faults::default(), rng.clone(), clock.clone()).transport(),
        clock,
        rng,
        base_url: "http://controller.test".into(),
        image_dir: Arc::new(directory),
        turns: Arc::default(),
        heard: Arc::default(),
        hosts: Arc::default(),
        wake: Arc::default(),
        wake_outbox: Arc::default(),
        broker_accounts: None,
        host_ca: None,
        metrics: Arc::default(),
        log_ins: Arc::default(),
        settings: Arc::new(ApiSettings::default()),
        control: Arc::default(),
    };
    App { state, services }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }
}

/// A client with a token.
#[derive(Clone)]
pub struct Client {
    /// What it speaks to.
    pub app: App,
    /// Its token.
    pub token: Option<String>,
}

impl Client {
    /// Without a token.
    pub fn anonymous(app: &App) -> Self {
        Self {
            app: app.clone(),
            token: None,
        }
    }

    /// The administrator, scoped to the project `admin`.
    pub async fn admin(app: &App) -> Self {
        Self::login(app, "admin", PASSWORD, "admin").await
    }

    /// A user, scoped to a project.
    pub async fn login(app: &App, user: &str, password: &str, project: &str) -> Self {
        let answer = Self::anonymous(app)
            .post(
                "/identity/v3/auth/tokens",
                login_body(user, password, project),
            )
            .await;
        assert_eq!(answer.status, 201, "{:?}", answer.json());
        Self {
            app: app.clone(),
            token: Some(
                answer.headers["x-subject-token"]
                    .to_str()
                    .unwrap()
                    .to_owned(),
            ),
        }
    }

    /// A new project with a user who is a member of it, and that user's client.
    pub async fn member(&self, name: &str) -> (Self, String) {
        let project = self
            .post("/identity/v3/projects", json!({"project": {"name": name}}))
            .await
            .json()["project"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let user = json!({"user": {"name": name, "password": "pw"}});
        let user = self.post("/identity/v3/users", user).await.json();
        let user = user["user"]["id"].as_str().unwrap().to_owned();
        let roles = self.get("/identity/v3/roles?name=member").await.json();
        let role = roles["roles"][0]["id"].as_str().unwrap();
        let grant = format!("/identity/v3/projects/{project}/users/{user}/roles/{role}");
        assert_eq!(self.send("PUT", &grant, None, &[]).await.status, 204);
        (Self::login(&self.app, name, "pw", name).await, project)
    }

    /// GET
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, &[]).await
    }

    /// DELETE
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None, &[]).await
    }

    /// POST
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body.to_string().into()), &[])
            .await
    }

    /// PUT
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body.to_string().into()), &[])
            .await
    }

    /// PATCH
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body.to_string().into()), &[])
            .await
    }

    /// Any request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header("x-auth-token", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.unwrap_or_default())).unwrap();
        let response = guard(self.app.state.clone(), (self.app.services)())
            .oneshot(request)
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes: bytes.to_vec(),
        }
    }
}

/// The body of a log-in by names in the default domain.
pub fn login_body(user: &str, password: &str, project: &str) -> Value {
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": user, "domain": {"id": "default"}, "password": password,
        }}},
        "scope": {"project": {"name": project, "domain": {"name": "Default"}}},
    }})
}
