//! The list of images: Glance's filters, most of which are no plain equality.

use super::view::view;
use super::{Reply, bad, ok};
use crate::records::{self, TABLE};
use berth_controller_core::listing::{self, Condition, Direction, Style};
use berth_controller_core::query::Params;
use berth_controller_core::store::Value as Column;
use berth_controller_core::{ApiError, Call, Service, read, time};
use serde_json::{Value, json};

/// As Glance has it: 25 images in one answer if no limit is given, and the newest first.
const STYLE: Style = Style {
    service: Service::Image,
    direction: Direction::Descending,
    default_limit: Some(25),
    max_limit: 1000,
};

/// `GET /v2/images`
pub async fn list(call: Call, query: Params) -> Reply {
    let mut asked = STYLE.asked(&TABLE, &query, &[], filter)?;
    // Hidden images are listed only when asked for, community images too, or by id.
    if query.get("os_hidden").is_none() {
        asked.filter.and(Condition::new("i.hidden = 0", []));
    }
    let community = query.get("visibility") == Some("community");
    let member_status = match query.get("member_status") {
        None => Some("accepted"),
        Some("all") => None,
        Some(status) if ["pending", "accepted", "rejected"].contains(&status) => Some(status),
        Some(_) => {
            return Err(bad(
                "member_status is to be one of pending, accepted, rejected, all.",
            ));
        }
    };
    let member_status = member_status.map(str::to_owned);
    let (page, images) = read!(call, |tx| [call, asked, member_status] {
        let project = call.context.reach.project();
        let visible = records::visible(project, community, member_status.as_deref());
        let page = STYLE.page(tx, &TABLE, &visible, project, &asked).await?;
        let images = records::of_page(tx, &page).await?;
        Ok::<_, ApiError>((page, images))
    })?;
    let link = |marker: Option<&str>| {
        let again = listing::again(&query, &[("marker", marker)]);
        format!("/v2/images?{again}")
            .trim_end_matches('?')
            .to_owned()
    };
    let images: Vec<Value> = images.iter().map(view).collect();
    let mut body = json!({
        "first": link(None), "schema": "/v2/schemas/images", "images": images,
    });
    if let (true, Some(last)) = (page.more, page.ids.last()) {
        body["next"] = json!(link(Some(last)));
    }
    Ok(ok(body))
}

/// Filters that are no plain equality: `in:`, sizes, times, tags, properties.
fn filter(name: &str, wanted: &[&str]) -> Option<Result<Condition, ApiError>> {
    let list = |text: &str| text.strip_prefix("in:").map(str::to_owned);
    let is_listed = ["id", "name", "status", "container_format", "disk_format"].contains(&name);
    if is_listed && wanted.iter().any(|text| text.starts_with("in:")) {
        let column = TABLE.field(name)?.sql;
        return Some(Ok(all(wanted, |text| match list(text) {
            None => Condition::new(format!("{column} = ?"), [text.into()]),
            Some(list) => {
                let each = list.split(',').map(|v| v.trim().trim_matches('"').into());
                Condition::among(column, each.collect::<Vec<Column>>())
            }
        })));
    }
    match name {
        "visibility" if wanted == ["all"] => Some(Ok(Condition::default())),
        "member_status" => Some(Ok(Condition::default())),
        "size_min" | "size_max" => Some(every(wanted, |text| size(name, text))),
        "created_at" | "updated_at" => Some(every(wanted, |text| at(name, text))),
        "tag" => Some(Ok(all(wanted, |tag| {
            let tag = json!(tag);
            contains("i.tags", &[format!("[{tag}"), format!(",{tag}")])
        }))),
        other if TABLE.field(other).is_some() => None,
        _ => Some(Ok(all(wanted, |value| {
            let property = format!("{}:{}", json!(name), json!(value));
            contains(
                "i.properties",
                &[format!("{{{property}"), format!(",{property}")],
            )
        }))),
    }
}

fn all(wanted: &[&str], one: impl Fn(&str) -> Condition) -> Condition {
    let mut all = Condition::default();
    for text in wanted {
        all.and(one(text));
    }
    all
}

fn every(
    wanted: &[&str],
    one: impl Fn(&str) -> Result<Condition, ApiError>,
) -> Result<Condition, ApiError> {
    let mut every = Condition::default();
    for text in wanted {
        every.and(one(text)?);
    }
    Ok(every)
}

/// That a column's JSON has one of these in it. A quotation mark in a string is escaped there; so a
/// string that begins and ends with one is a whole one.
fn contains(column: &str, parts: &[String]) -> Condition {
    let each = parts.iter().map(|part| {
        Condition::new(
            format!("REPLACE({column}, ?, '') <> {column}"),
            [part.into()],
        )
    });
    Condition::any(each)
}

fn size(name: &str, text: &str) -> Result<Condition, ApiError> {
    let bound: i64 = text
        .parse()
        .ok()
        .filter(|b| *b >= 0)
        .ok_or_else(|| bad(format!("{name} is to be a whole number, 0 or more.")))?;
    let sign = if name == "size_min" { ">=" } else { "<=" };
    Ok(Condition::new(format!("i.size {sign} ?"), [bound.into()]))
}

/// `gte:2016-04-18T21:38:54`; whole seconds, as they are shown.
fn at(name: &str, text: &str) -> Result<Condition, ApiError> {
    let signs = [
        ("eq", "="),
        ("neq", "<>"),
        ("gt", ">"),
        ("gte", ">="),
        ("lt", "<"),
        ("lte", "<="),
    ];
    let named = text.split_once(':').and_then(|(name, rest)| {
        let sign = signs.iter().find(|(known, _)| *known == name)?;
        Some((sign.1, rest))
    });
    let (sign, text) = named.unwrap_or(("=", text));
    let wanted = time::parse(text).ok_or_else(|| {
        bad(format!(
            "{name} is to be OPERATOR:TIME, TIME as in ISO 8601."
        ))
    })?;
    let sql = format!("i.{name} / 1000 * 1000 {sign} ?");
    Ok(Condition::new(sql, [wanted.into()]))
}
