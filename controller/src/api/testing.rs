//! An application in memory, for handlers' tests: SQLite, the in-process transport, a seed.

#![allow(clippy::unwrap_used)]

use super::{ApiSettings, AppState};
use crate::identity::bootstrap::bootstrap;
use crate::store::Store;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use berth_rpc::clock::{SeededRng, SystemClock};
use berth_rpc::{Faults, InProcess};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::sync::Arc;
use tower::ServiceExt as _;

thread_local! {
    /// Images of the applications of this thread's test; they go with the thread.
    static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// The administrator's password in tests.
pub const PASSWORD: &str = "secret";

/// An application with its own database, bootstrapped.
pub async fn app() -> AppState {
    let rng = Arc::new(SeededRng::new(7));
    let clock = Arc::new(SystemClock::default());
    let store = Store::connect("sqlite::memory:").await.unwrap();
    bootstrap(&store, &*clock, &*rng, PASSWORD).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("images");
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    AppState {
        store,
        transport: InProcess::new(Faults::default(), rng.clone(), clock.clone()).transport(),
        clock,
        rng,
        base_url: "http://controller.test".into(),
        image_dir: Arc::new(directory),
        wake: Arc::default(),
        wake_outbox: Arc::default(),
        metrics: Arc::default(),
        settings: Arc::new(ApiSettings::default()),
        control: Arc::default(),
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }
}

/// A client with a token.
#[derive(Clone)]
pub struct Client {
    pub app: AppState,
    pub token: Option<String>,
}

impl Client {
    pub fn anonymous(app: &AppState) -> Self {
        Self {
            app: app.clone(),
            token: None,
        }
    }

    /// The administrator, scoped to the project `admin`.
    pub async fn admin(app: &AppState) -> Self {
        Self::login(app, "admin", PASSWORD, "admin").await
    }

    pub async fn login(app: &AppState, user: &str, password: &str, project: &str) -> Self {
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

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body.to_string().into()), &[])
            .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body.to_string().into()), &[])
            .await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body.to_string().into()), &[])
            .await
    }

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
        let response = super::router(self.app.clone())
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
