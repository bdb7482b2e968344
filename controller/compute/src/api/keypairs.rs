//! `/os-keypairs`: keys of users. A key is imported; where a client asks for a new one, it is
//! made here, answered once and forgotten.

use super::common::{
    Call, Reply, answer, bad, conflict, forbidden, name, not_found, object, ok, read, status, tx,
    within,
};
use super::render::{Field, render};
use super::servers::next_link;
use crate::keypairs::{self, Keypair, TABLE};
use crate::{listing, quotas};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::clip;
use berth_controller_core::listing::{Asked, Condition};
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::StoreError;
use berth_controller_core::{ApiError, Service, time};
use serde_json::{Value, json};

struct View {
    key: Keypair,
    private_key: Option<String>,
}

type F = Field<View>;

const LIST: &[F] = &[
    F::always("name", |v, _| Some(json!(v.key.name))),
    F::always("public_key", |v, _| Some(json!(v.key.public_key))),
    F::always("fingerprint", |v, _| Some(json!(v.key.fingerprint))),
    F::always("type", |v, _| Some(json!(v.key.key_type))).since(2),
];

const CREATED: &[F] = &[
    F::always("user_id", |v, _| Some(json!(v.key.user_id))),
    F::always("private_key", |v, _| {
        v.private_key.as_ref().map(|k| json!(k))
    }),
];

const SHOWN: &[F] = &[
    F::always("user_id", |v, _| Some(json!(v.key.user_id))),
    F::always("id", |v, _| Some(json!(v.key.serial))),
    F::always("created_at", |v, _| {
        Some(json!(time::micros(v.key.created_at).trim_end_matches('Z')))
    }),
    F::always("updated_at", |_, _| Some(Value::Null)),
    F::always("deleted_at", |_, _| Some(Value::Null)),
    F::always("deleted", |_, _| Some(json!(false))),
];

fn shown(call: &Call, view: &View, more: &[F]) -> Value {
    let mut value = render(LIST, view, call.version, false);
    if let (Value::Object(map), Value::Object(more)) =
        (&mut value, render(more, view, call.version, false))
    {
        map.extend(more);
    }
    value
}

/// Since 2.10 an administrator may say whose.
fn user(call: &Call, asked: Option<&str>) -> Result<String, ApiError> {
    let own = &call.context.user_id;
    match asked.filter(|_| call.since(10)) {
        Some(other) if other != own && call.context.reach != Reach::Cloud => Err(forbidden(
            "Policy doesn't allow os_compute_api:os-keypairs to be performed for another user.",
        )),
        Some(other) => Ok(other.to_owned()),
        None => Ok(own.clone()),
    }
}

/// `GET /os-keypairs`
pub async fn index(call: Call, params: Params) -> Reply {
    let user = user(&call, params.get("user_id"))?;
    // Since 2.35 a page; before, all.
    let (marker, limit) = match call.since(35) {
        true => {
            let limit = params.limit(Service::Compute, listing::MAX_LIMIT)?;
            let marker = params.get("marker").map(str::to_owned);
            (marker, limit.unwrap_or(listing::MAX_LIMIT))
        }
        false => (None, listing::MAX_LIMIT),
    };
    let asked = Asked {
        filter: Condition::default(),
        order: TABLE.whole(Vec::new()),
        marker,
        limit,
        reverse: false,
    };
    let (page, next) = read!(call, |tx| [user, asked] {
        let visible = Condition::owned("k.user_id", Some(&user));
        let page = TABLE.page(tx, &visible, Some(&user), &asked).await;
        let page = page.map_err(|why| listing::refused(why, &asked))?;
        let next = page.ids.last().filter(|_| page.ids.len() == asked.limit).cloned();
        Ok::<_, ApiError>((keypairs::of_page(tx, &user, &page).await?, next))
    })?;
    let list: Vec<Value> = page
        .into_iter()
        .map(|key| {
            let view = View {
                key,
                private_key: None,
            };
            json!({"keypair": shown(&call, &view, &[])})
        })
        .collect();
    let mut body = json!({ "keypairs": list });
    if let Some(next) = next.filter(|_| call.since(35)) {
        body["keypairs_links"] = next_link(&call, "os-keypairs", &params, &next);
    }
    ok(body)
}

/// `GET /os-keypairs/{name}`
pub async fn show(call: Call, Path(name): Path<String>, params: Params) -> Reply {
    let user = user(&call, params.get("user_id"))?;
    let key = read!(call, |tx| [user, name] { keypairs::get(tx, &user, &name).await })?;
    let Some(key) = key else {
        return Err(missing(&user, &name));
    };
    let view = View {
        key,
        private_key: None,
    };
    ok(json!({"keypair": shown(&call, &view, SHOWN)}))
}

fn missing(user: &str, name: &str) -> ApiError {
    not_found(format!("Keypair {} not found for user {user}", clip(name)))
}

/// `DELETE /os-keypairs/{name}`
pub async fn delete(call: Call, Path(name): Path<String>, params: Params) -> Reply {
    let user = user(&call, params.get("user_id"))?;
    let gone = tx!(call, |tx| [user, name] { keypairs::delete(tx, &user, &name).await })?;
    if !gone {
        return Err(missing(&user, &name));
    }
    status(if call.since(2) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::ACCEPTED
    })
}

/// `POST /os-keypairs`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["keypair"])?;
    let fields = within(&body, "keypair")?;
    let mut known = vec!["name", "public_key"];
    if call.since(2) {
        known.push("type");
    }
    if call.since(10) {
        known.push("user_id");
    }
    fields.only(&known)?;
    let name = name(&fields, "name")?;
    let more = if call.since(92) { "_- @." } else { "_- " };
    let allowed = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    if !name.chars().all(allowed) {
        return Err(bad(format!(
            "Keypair data is invalid: Keypair name {} contains unsafe characters: letters, digits and {more:?} are allowed.",
            clip(&name)
        )));
    }
    if call.since(92) && !fields.has("public_key") {
        return Err(fields.wrong(
            "public_key",
            "is missing: since 2.92 keys are made by their owners only",
        ));
    }
    match fields.text("type", 16)?.as_deref() {
        None | Some("ssh") => {}
        // A guest here has no use for it.
        Some("x509") => return Err(super::common::unsupported("keypair.type x509")),
        Some(_) => return Err(fields.wrong("type", "is to be ssh")),
    }
    let owner = user(&call, fields.text("user_id", 255)?.as_deref())?;
    let given = fields.text("public_key", 65_535)?;
    let (public_key, private_key) = match given {
        Some(key) => (key.trim().to_owned(), None),
        None => {
            let (public, private) = super::generate::ed25519(&*call.app.rng, &name);
            (public, Some(private))
        }
    };
    let fingerprint = keypairs::fingerprint(&public_key).map_err(|why| {
        bad(format!(
            "Keypair data is invalid: failed to generate fingerprint: {why}"
        ))
    })?;
    let key = Keypair {
        name: name.clone(),
        user_id: owner,
        serial: 0,
        key_type: "ssh".into(),
        public_key,
        fingerprint,
        created_at: call.now(),
    };
    let project = call.context.project_id.clone();
    let made = tx!(call, |tx| [key, project] {
        let limits = quotas::limits(tx, &project).await?;
        let most = quotas::limit_of(&limits, "key_pairs");
        let have = keypairs::list(tx, &key.user_id).await?.len();
        if most >= 0 && i64::try_from(have).unwrap_or(i64::MAX) >= most {
            return Err(forbidden(format!(
                "Quota exceeded, too many key pairs: {have} of {most} are used."
            )));
        }
        keypairs::insert(tx, &key).await?;
        Ok::<_, ApiError>(())
    });
    match made {
        Ok(()) => {}
        Err(ApiError {
            cause: Some(StoreError::Conflict(_)),
            ..
        }) => {
            return Err(conflict(format!("Key pair '{name}' already exists.")));
        }
        Err(error) => return Err(error),
    }
    let view = View { key, private_key };
    let code = if call.since(2) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer(
        code,
        json!({"keypair": shown(&call, &view, CREATED)}),
    ))
}
