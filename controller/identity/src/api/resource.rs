//! What projects, users, roles and domains have in common: a table, an id, and a name that no
//! other has. Each gives its [`Resource`] and the type of its rows; what is peculiar to it stays in its
//! own file.

use crate::assignments::EFFECTIVE;

use super::{Reply, bad, beyond, collection, conflict, created, no_content, not_found, ok};
use berth_controller_core::body::Fields;
use berth_controller_core::policy::Reach;
use berth_controller_core::query::Params;
use berth_controller_core::store::{FromRow, Json, StoreError, Tx, Value as Stored};
use berth_controller_core::{ApiError, AppState, Call, params, read, tx};
use serde_json::{Map, Value, json};

/// A column and what is to be in it. In a change, NULL leaves it as it is.
pub(super) type Column = (&'static str, Stored);

/// What any of them may be described by, in characters.
const MAX_DESCRIPTION: usize = 65_535;

/// What else a body says, which nothing here looks at: it is kept and shown again, as Keystone does.
pub(super) type Extra = Map<String, Value>;

/// How many bytes of it are kept, as JSON.
const MAX_EXTRA: usize = 16_384;

/// What a body says beyond the fields that are `known`, as a [`Column`].
///
/// # Errors
/// 400 if it is too much.
pub(super) fn extra(fields: &Fields<'_>, known: &[&str]) -> Result<Column, ApiError> {
    let more = fields
        .iter()
        .filter(|(name, _)| !known.contains(&name.as_str()));
    let more: Extra = more
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let text = match more.is_empty() {
        true => None,
        false => Some(Value::Object(more).to_string()),
    };
    if text.as_ref().is_some_and(|text| text.len() > MAX_EXTRA) {
        return Err(bad(format!(
            "What is said beyond {} has more than {MAX_EXTRA} bytes.",
            known.join(", ")
        )));
    }
    Ok((EXTRA, text.into()))
}

/// A view with what else was said: what is known here goes before it.
pub(super) fn with_extra(mut view: Value, extra: Option<&Json<Extra>>) -> Value {
    if let (Some(Json(extra)), Value::Object(shown)) = (extra, &mut view) {
        for (name, value) in extra {
            shown.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    view
}

/// How long the names of projects and domains may be, in characters: a token's head carries them.
const MAX_SHORT_NAME: usize = 64;

/// The name that a body gives a project or a domain.
///
/// # Errors
/// 400
pub(super) fn short_name(fields: &Fields<'_>) -> Result<String, ApiError> {
    let name = opt_short_name(fields)?;
    name.ok_or_else(|| fields.wrong("name", "is missing"))
}

/// The same, if it gives one.
///
/// # Errors
/// 400
pub(super) fn opt_short_name(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let name = fields.opt_name("name")?;
    let is_long = |name: &String| name.chars().count() > MAX_SHORT_NAME;
    match name.as_ref().is_some_and(is_long) {
        true => Err(fields.wrong(
            "name",
            &format!("has more than {MAX_SHORT_NAME} characters"),
        )),
        false => Ok(name),
    }
}

/// The column that stands in a table of its own.
const EXTRA: &str = "extra";

/// The description that a body gives.
///
/// # Errors
/// 400 if it is no text or too long.
pub(super) fn description(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    fields.text("description", MAX_DESCRIPTION)
}

/// Where it stands in which domain something is.
pub(super) struct InDomain<R: 'static> {
    /// In SQL.
    pub column: &'static str,
    /// In a row.
    pub of: fn(&R) -> &str,
}

/// One kind of resource, whose rows are `R`. Its names are its own: they stand in SQL.
pub(super) struct Resource<R: 'static> {
    /// One of them: in JSON and in messages.
    pub one: &'static str,
    /// All of them: in JSON, in paths, and the table.
    pub all: &'static str,
    /// In which domain one is; `None`: they are for all domains.
    pub domain: Option<InDomain<R>>,
    /// Where names are unique, if not everywhere.
    pub unique: &'static str,
    /// Renders one.
    pub view: fn(&AppState, &R) -> Value,
    /// Refuses that one is deleted.
    pub may_go: fn(&R) -> Result<(), ApiError>,
    /// What goes before it, in order; `$1` is its id.
    pub goes_with_it: &'static [&'static str],
}

impl<R: FromRow + Send> Resource<R> {
    /// One by its id.
    ///
    /// # Errors
    /// 404
    pub async fn load(&self, tx: &mut Tx, id: &str) -> Result<R, ApiError> {
        let sql = self.select("WHERE t.id = $1");
        let row = tx.query_opt(&sql, params![id]).await?;
        row.ok_or_else(|| not_found(self.one, id))
    }

    /// A query of rows, called `t`.
    pub fn select(&self, rest: &str) -> String {
        format!(
            "SELECT t.*, x.extra FROM {} t LEFT JOIN identity_extra x ON x.kind = '{}' \
             AND x.id = t.id {rest}",
            self.all, self.one
        )
    }

    /// Keeps what else is said, beside what was said before.
    async fn keep(&self, tx: &mut Tx, id: &str, columns: &[Column]) -> Result<(), ApiError> {
        let said = columns.iter().find(|(name, _)| *name == EXTRA).map(text);
        let said: Extra = said
            .and_then(|t| serde_json::from_str(t).ok())
            .unwrap_or_default();
        if said.is_empty() {
            return Ok(());
        }
        let sql = "SELECT extra FROM identity_extra WHERE kind = $1 AND id = $2";
        let before = tx
            .query_opt::<(Json<Extra>,)>(sql, params![self.one, id])
            .await?;
        let mut all = before.map(|(Json(before),)| before).unwrap_or_default();
        all.extend(said);
        let all = Value::Object(all).to_string();
        if all.len() > MAX_EXTRA {
            return Err(bad(format!(
                "What is said of {} {id} beyond what is known here has more than {MAX_EXTRA} bytes.",
                self.one
            )));
        }
        let sql = "INSERT INTO identity_extra (kind, id, extra) VALUES ($1, $2, $3) \
                   ON CONFLICT (kind, id) DO UPDATE SET extra = excluded.extra";
        tx.execute(sql, params![self.one, id, all]).await?;
        Ok(())
    }

    /// One by its id, if it is within the caller's reach.
    ///
    /// # Errors
    /// 404; 403 for one in another domain.
    pub async fn within(&self, tx: &mut Tx, reach: &Reach, id: &str) -> Result<R, ApiError> {
        let row = self.load(tx, id).await?;
        match (&self.domain, reach.domain()) {
            (Some(its), Some(domain)) if (its.of)(&row) != domain => Err(beyond()),
            _ => Ok(row),
        }
    }

    /// A new one, in the domain that its columns name, if they do.
    ///
    /// # Errors
    /// 409 for a name that is taken; 404 for a domain that is not there.
    pub async fn insert(&self, tx: &mut Tx, said: &[Column]) -> Result<R, ApiError> {
        let columns = &*own_columns(said);
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let marks: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let (names, marks) = (names.join(", "), marks.join(", "));
        let mut sql = format!("INSERT INTO {} ({names}) SELECT {marks}", self.all);
        // Whether the domain is there is asked by the statement that needs it.
        let domain = columns.iter().position(|(name, _)| *name == "domain_id");
        if let Some(at) = domain {
            sql.push_str(&format!(" FROM domains WHERE id = ${}", at + 1));
        }
        let made = self.write(tx, &sql, columns, &[]).await?;
        match domain {
            Some(at) if made == 0 => Err(not_found("domain", text(&columns[at]))),
            _ => {
                let id = columns.iter().find(|(name, _)| *name == "id");
                let id = id.map_or("", text);
                self.keep(tx, id, said).await?;
                self.load(tx, id).await
            }
        }
    }

    /// Changes the columns that are not NULL.
    ///
    /// # Errors
    /// 409 for a name that is taken, 404
    pub async fn change(&self, tx: &mut Tx, id: &str, said: &[Column]) -> Result<R, ApiError> {
        self.keep(tx, id, said).await?;
        let columns = &*own_columns(said);
        let sets: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(n, (name, _))| format!("{name} = COALESCE(${}, {name})", n + 1))
            .collect();
        let (sets, last) = (sets.join(", "), columns.len() + 1);
        let sql = format!("UPDATE {} SET {sets} WHERE id = ${last}", self.all);
        self.write(tx, &sql, columns, params![id]).await?;
        self.load(tx, id).await
    }

    async fn write(
        &self,
        tx: &mut Tx,
        sql: &str,
        columns: &[Column],
        more: &[Stored],
    ) -> Result<u64, ApiError> {
        let values = columns.iter().map(|(_, value)| value.clone());
        let values: Vec<Stored> = values.chain(more.iter().cloned()).collect();
        let written = tx.execute(sql, &values).await;
        written.map_err(|error| match error {
            StoreError::Conflict(_) => {
                let name = columns.iter().find(|(name, _)| *name == "name");
                conflict(format!(
                    "There is already a {} named {}{}.",
                    self.one,
                    name.map_or("", text),
                    self.unique
                ))
            }
            other => other.into(),
        })
    }

    /// `{"project": {...}}`
    pub fn body(&self, app: &AppState, row: &R) -> Value {
        json!({self.one: (self.view)(app, row)})
    }

    /// A list, at `path`.
    pub fn collection(&self, app: &AppState, path: &str, rows: &[R]) -> Reply {
        let items = rows.iter().map(|row| (self.view)(app, row));
        Ok(collection(app, self.all, path, items.collect()))
    }

    /// Those within the caller's reach that have what the query says of these columns.
    pub async fn list(&self, call: &Call, query: &Params, filters: &[&'static str]) -> Reply {
        let mut wanted: Vec<Column> = filters
            .iter()
            .filter_map(|name| match *name {
                "enabled" => query.flag(name).map(|flag| (*name, flag.into())),
                name => query.get(name).map(|value| (name, value.into())),
            })
            .collect();
        if let (Some(its), Some(domain)) = (&self.domain, call.context.reach.domain()) {
            wanted.push((its.column, domain.into()));
        }
        let mut rest = String::new();
        for (n, (name, _)) in wanted.iter().enumerate() {
            let joint = if n == 0 { "WHERE" } else { "AND" };
            rest.push_str(&format!(" {joint} t.{name} = ${}", n + 1));
        }
        rest.push_str(" ORDER BY t.name, t.id");
        let sql = self.select(&rest);
        let values: Vec<Stored> = wanted.into_iter().map(|(_, value)| value).collect();
        let rows = read!(call, |tx| [sql, values] {
            Ok::<_, ApiError>(tx.query(&sql, &values).await?)
        })?;
        self.collection(&call.app, self.all, &rows)
    }

    /// Those on which a user has a role.
    pub async fn list_of_user(&self, call: &Call, user_id: &str, path: &str) -> Reply {
        let sql = self.select(&format!(
            "WHERE t.enabled = 1 AND t.id IN (SELECT a.target_id FROM {EFFECTIVE} a \
             WHERE a.user_id = $1 AND a.target_kind = $2) ORDER BY t.name, t.id"
        ));
        let values = [Stored::from(user_id), Stored::from(self.one)];
        let rows = read!(call, |tx| [sql, values] {
            Ok::<_, ApiError>(tx.query(&sql, &values).await?)
        })?;
        self.collection(&call.app, path, &rows)
    }

    /// Makes one, in a domain within the caller's reach.
    pub async fn create(&'static self, call: &Call, columns: Vec<Column>) -> Reply {
        let domain = columns.iter().find(|(name, _)| *name == "domain_id");
        if domain.is_some_and(|domain| !call.context.reach.covers_domain(text(domain))) {
            return Err(beyond());
        }
        let row = tx!(call, |tx| [columns] { self.insert(tx, &columns).await })?;
        Ok(created(self.body(&call.app, &row)))
    }

    /// Shows one.
    pub async fn show(&'static self, call: &Call, id: &str) -> Reply {
        let id = id.to_owned();
        let row = read!(call, |tx| [call, id] {
            self.within(tx, &call.context.reach, &id).await
        })?;
        Ok(ok(self.body(&call.app, &row)))
    }

    /// Changes one, if `may` says so of it as it is.
    pub async fn update(
        &'static self,
        call: &Call,
        id: &str,
        columns: Vec<Column>,
        may: fn(&R, &[Column]) -> Result<(), ApiError>,
    ) -> Reply {
        let id = id.to_owned();
        let row = tx!(call, |tx| [call, id, columns] {
            may(&self.within(tx, &call.context.reach, &id).await?, &columns)?;
            self.change(tx, &id, &columns).await
        })?;
        Ok(ok(self.body(&call.app, &row)))
    }

    /// Deletes one, and what goes with it.
    pub async fn delete(&'static self, call: &Call, id: &str) -> Reply {
        let id = id.to_owned();
        tx!(call, |tx| [call, id] {
            (self.may_go)(&self.within(tx, &call.context.reach, &id).await?)?;
            for sql in self.goes_with_it {
                tx.execute(sql, params![&id]).await?;
            }
            let sql = format!("DELETE FROM {} WHERE id = $1", self.all);
            tx.execute(&sql, params![&id]).await?;
            let sql = "DELETE FROM identity_extra WHERE kind = $1 AND id = $2";
            tx.execute(sql, params![self.one, &id]).await?;
            Ok::<_, ApiError>(())
        })?;
        Ok(no_content())
    }
}

/// Those of the resource's own table.
fn own_columns(said: &[Column]) -> Vec<Column> {
    let own = said.iter().filter(|(name, _)| *name != EXTRA);
    own.cloned().collect()
}

fn text((_, value): &Column) -> &str {
    match value {
        Stored::Text(Some(text)) => text,
        _ => "",
    }
}
