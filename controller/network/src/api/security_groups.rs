//! Security groups and rules over HTTP.

use super::{Reply, STYLE, answer_list, created, no_content, ok, one_or_many, only, project_of};
use crate::networks;
use crate::quotas;
use crate::security_groups::{self, Group, Rule};
use crate::tags::{self, Kind};
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{
    ApiError, AppState, Call, RequestContext, Service, params, read, time, tx,
};
use serde_json::{Value, json};

fn rule_view(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "security_group_id": rule.group_id,
        "tenant_id": rule.project_id,
        "project_id": rule.project_id,
        "description": rule.description,
        "direction": rule.direction,
        "ethertype": rule.ethertype,
        "protocol": rule.protocol,
        "port_range_min": rule.port_min,
        "port_range_max": rule.port_max,
        "remote_group_id": rule.remote_group_id,
        "remote_ip_prefix": rule.remote_ip_prefix,
        "revision_number": 1,
        "created_at": time::seconds(rule.created_at),
        "updated_at": time::seconds(rule.created_at),
    })
}

fn view(group: &Group) -> Value {
    json!({
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "project_id": group.project_id,
        "security_group_rules": group.rules.iter().map(rule_view).collect::<Vec<_>>(),
        "tags": group.tags,
        "revision_number": group.revision,
        "created_at": time::seconds(group.created_at),
        "updated_at": time::seconds(group.updated_at),
    })
}

/// `GET /v2.0/security-groups`. A project's default group is made when somebody looks.
pub async fn list(call: Call, query: Params) -> Reply {
    let env = call.app.env();
    let asked = STYLE.asked(&security_groups::TABLE, &query, &[], |name, wanted| {
        tags::filter(Kind::SecurityGroups, "g.id", name, wanted).map(Ok)
    })?;
    let (page, groups) = tx!(call, |tx| [call, env, asked] {
        if !call.context.project_id.is_empty() {
            security_groups::ensure_default(tx, &env, &call.context.project_id).await?;
        }
        let project = call.context.reach.project();
        let visible = Condition::owned("g.project_id", project);
        let page = STYLE.page(tx, &security_groups::TABLE, &visible, project, &asked).await?;
        let groups = security_groups::of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, groups))
    })?;
    let views = groups.iter().map(view).collect();
    answer_list(
        &call.app,
        "security_groups",
        "security-groups",
        &page,
        views,
        &query,
    )
}

/// `POST /v2.0/security-groups`, one or several.
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let (all, bulk) = one_or_many(&body, "security_group", "security_groups")?;
    let mut new = Vec::new();
    for fields in &all {
        fields.only(&["name", "description", "project_id", "tenant_id", "stateful"])?;
        if fields.flag("stateful")? == Some(false) {
            return Err(super::not_offered("stateful", "false"));
        }
        new.push((
            project_of(&call.context, fields)?,
            fields.text("name", 255)?.unwrap_or_default(),
            fields.text("description", 255)?.unwrap_or_default(),
        ));
    }
    let env = call.app.env();
    let groups = tx!(call, |tx| [new, env] {
        let mut groups = Vec::new();
        for (project, name, description) in &new {
            security_groups::ensure_default(tx, &env, project).await?;
            groups.push(
                security_groups::create(tx, &env, project, name, description, false)
                    .await?,
            );
        }
        Ok::<_, ApiError>(groups)
    })?;
    let views = groups.iter().map(view).collect();
    Ok(created("security_group", "security_groups", bulk, views))
}

async fn load(tx: &mut Tx, context: &RequestContext, id: &str) -> Result<Group, ApiError> {
    let found = security_groups::find(tx, id).await?;
    found
        .filter(|g| context.may_see(&g.project_id))
        .ok_or_else(|| security_groups::missing(id))
}

/// With its tags.
async fn shown(tx: &mut Tx, context: &RequestContext, id: &str) -> Result<Group, ApiError> {
    let mut group = load(tx, context, id).await?;
    tags::fill(tx, std::slice::from_mut(&mut group)).await?;
    Ok(group)
}

/// `GET /v2.0/security-groups/{id}`
pub async fn show(call: Call, Path(id): Path<String>, query: Params) -> Reply {
    let group = read!(call, |tx| [call, id] { shown(tx, &call.context, &id).await })?;
    Ok(ok(json!({"security_group": only(view(&group), &query)})))
}

/// `PUT /v2.0/security-groups/{id}`
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::within(Service::Network, &body, "security_group")?;
    fields.only(&["name", "description", "stateful"])?;
    if fields.flag("stateful")? == Some(false) {
        return Err(super::not_offered("stateful", "false"));
    }
    let name = fields.text("name", 255)?;
    let description = fields.text("description", 255)?;
    let now = call.now();
    let group = tx!(call, |tx| [call, id, name, description] {
        let group = load(tx, &call.context, &id).await?;
        let renamed = name.as_deref().is_some_and(|n| n != group.name);
        if renamed && (group.is_default || name.as_deref() == Some("default")) {
            return Err(ApiError::new(
                Service::Network,
                axum::http::StatusCode::CONFLICT,
                "Updating default security group not allowed: its name is its own.",
            )
            .kind("SecurityGroupCannotUpdateDefault"));
        }
        tx.execute(
            "UPDATE security_groups SET name = COALESCE($1, name), \
             description = COALESCE($2, description), revision = revision + 1, \
             updated_at = $3 WHERE id = $4",
            params![name, description, now, &id],
        )
        .await?;
        shown(tx, &call.context, &id).await
    })?;
    Ok(ok(json!({"security_group": view(&group)})))
}

/// `DELETE /v2.0/security-groups/{id}`, with its rules.
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        let group = load(tx, &call.context, &id).await?;
        let may_default = call.context.may("network:delete_security_group:default");
        security_groups::delete(tx, &group, may_default).await
    })?;
    Ok(no_content())
}

/// `GET /v2.0/security-group-rules`
pub async fn list_rules(call: Call, query: Params) -> Reply {
    let asked = STYLE.asked(&security_groups::RULES, &query, &[], |_, _| None)?;
    let (page, rules) = read!(call, |tx| [call, asked] {
        let project = call.context.reach.project();
        let visible = Condition::owned("r.project_id", project);
        let page = STYLE.page(tx, &security_groups::RULES, &visible, project, &asked).await?;
        let rules = security_groups::rules_of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, rules))
    })?;
    let views = rules.iter().map(rule_view).collect();
    let path = "security-group-rules";
    answer_list(
        &call.app,
        "security_group_rules",
        path,
        &page,
        views,
        &query,
    )
}

fn parse_rule(app: &AppState, fields: &Fields<'_>) -> Result<Rule, ApiError> {
    fields.only(&[
        "security_group_id",
        "direction",
        "ethertype",
        "protocol",
        "port_range_min",
        "port_range_max",
        "remote_group_id",
        "remote_ip_prefix",
        "description",
        "project_id",
        "tenant_id",
    ])?;
    let protocol = match fields.get("protocol") {
        Some(Value::Number(n)) => Some(n.to_string()),
        _ => fields.text("protocol", 40)?.map(|p| p.to_ascii_lowercase()),
    };
    let ethertype = match fields.text("ethertype", 10)?.as_deref() {
        None => "IPv4".to_owned(),
        Some(t) if t.eq_ignore_ascii_case("ipv4") => "IPv4".to_owned(),
        Some(t) if t.eq_ignore_ascii_case("ipv6") => "IPv6".to_owned(),
        Some(_) => return Err(fields.wrong("ethertype", "is to be IPv4 or IPv6")),
    };
    Ok(Rule {
        id: networks::new_id(&*app.rng),
        group_id: fields
            .text("security_group_id", 64)?
            .ok_or_else(|| fields.wrong("security_group_id", "is missing"))?,
        project_id: String::new(), // the group's
        description: fields.text("description", 255)?.unwrap_or_default(),
        direction: fields
            .text("direction", 10)?
            .ok_or_else(|| fields.wrong("direction", "is missing"))?,
        ethertype,
        protocol: protocol.filter(|p| p != "any"),
        port_min: fields.int("port_range_min", -1, 65_535)?,
        port_max: fields.int("port_range_max", -1, 65_535)?,
        remote_group_id: fields.text("remote_group_id", 64)?,
        remote_ip_prefix: fields.text("remote_ip_prefix", 64)?,
        created_at: app.clock.now_millis(),
    })
}

/// `POST /v2.0/security-group-rules`, one or several.
pub async fn create_rule(call: Call, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let (all, bulk) = one_or_many(&body, "security_group_rule", "security_group_rules")?;
    let new: Vec<Rule> = all
        .iter()
        .map(|f| parse_rule(&call.app, f))
        .collect::<Result<_, _>>()?;
    let rules = tx!(call, |tx| [new, call] {
        let mut rules = Vec::new();
        for mut rule in new {
            let group = load(tx, &call.context, &rule.group_id).await?;
            if let Some(remote) = &rule.remote_group_id {
                load(tx, &call.context, remote).await?;
            }
            rule.project_id = group.project_id;
            quotas::one_more(tx, &rule.project_id, quotas::SECURITY_GROUP_RULE).await?;
            security_groups::insert_rule(tx, &rule).await?;
            rules.push(rule);
        }
        Ok::<_, ApiError>(rules)
    })?;
    let views = rules.iter().map(rule_view).collect();
    Ok(created(
        "security_group_rule",
        "security_group_rules",
        bulk,
        views,
    ))
}

async fn load_rule(tx: &mut Tx, context: &RequestContext, id: &str) -> Result<Rule, ApiError> {
    let rule: Option<Rule> = tx
        .query_opt(
            "SELECT * FROM security_group_rules WHERE id = $1",
            params![id],
        )
        .await?;
    rule.filter(|r| context.may_see(&r.project_id))
        .ok_or_else(|| security_groups::missing_rule(id))
}

/// `GET /v2.0/security-group-rules/{id}`
pub async fn show_rule(call: Call, Path(id): Path<String>, query: Params) -> Reply {
    let rule = read!(call, |tx| [call, id] { load_rule(tx, &call.context, &id).await })?;
    Ok(ok(
        json!({"security_group_rule": only(rule_view(&rule), &query)}),
    ))
}

/// `DELETE /v2.0/security-group-rules/{id}`
pub async fn delete_rule(call: Call, Path(id): Path<String>) -> Reply {
    tx!(call, |tx| [call, id] {
        load_rule(tx, &call.context, &id).await?;
        security_groups::delete_rule(tx, &id).await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}
