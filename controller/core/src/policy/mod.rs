//! Who may do what: one table for every route of every service, asked in one place.
//!
//! A row of [`table`] names an action (by its name in OpenStack's policies), the routes that are
//! it, and [`Who`] may do it. What every request passes after its token was looked at
//! (`identity::authenticate`) finds the row of its route and asks how far the caller's roles
//! reach ([`Who::reach`]): nowhere is a 403, and a route without a row is nobody's. Handlers get
//! the [`Reach`] in their context and ask it of each thing that they touch; what a row says of a
//! field of a body ([`RequestContext::require`]) has a row without a route.
//!
//! `docs/policy.md` is made from the table.
//!
//! [`RequestContext::require`]: crate::RequestContext::require

mod docs;
mod table;

pub use docs::render;
pub use table::TABLE;

use crate::{ApiError, Service};
use axum::http::{Method, StatusCode};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The roles that the table asks for, each with all that is below it. Any other role's name gives
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Reader,
    /// Changes what a project has.
    Member,
    /// Keeps a domain's users and projects.
    Manager,
    /// Everything in its scope.
    Admin,
}

impl Role {
    /// All of them, the lowest first.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Member, Self::Manager, Self::Admin];

    /// Its name in identity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }

    /// The highest among these names.
    pub fn highest<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let of = |name: &str| Self::ALL.into_iter().find(|role| role.as_str() == name);
        names.filter_map(of).max()
    }
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing but asking for another.
    Unscoped,
    /// A project, by id.
    Project(String),
    /// A domain, by id.
    Domain(String),
    /// The whole cloud's identity.
    System,
}

/// Who asks, as far as the table is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the token is for.
    pub scope: Scope,
    /// The highest role that it has there.
    pub role: Option<Role>,
    /// The user.
    pub user_id: String,
}

/// How far a caller's roles reach in what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Whatever there is.
    Cloud,
    /// What is in this domain.
    Domain(String),
    /// What this project has.
    Project(String),
    /// What this user is, and no more.
    Oneself(String),
}

impl Reach {
    /// Whether it reaches what this project has.
    pub fn covers(&self, project: &str) -> bool {
        match self {
            Self::Cloud => true,
            Self::Project(own) => own == project,
            Self::Domain(_) | Self::Oneself(_) => false,
        }
    }

    /// For SQL: the one project that it reaches; `None` for all.
    pub fn project(&self) -> Option<&str> {
        match self {
            Self::Cloud => None,
            Self::Project(own) => Some(own),
            // No project has that id.
            Self::Domain(_) | Self::Oneself(_) => Some(""),
        }
    }

    /// Whether it reaches what is in this domain.
    pub fn covers_domain(&self, domain: &str) -> bool {
        match self {
            Self::Cloud => true,
            Self::Domain(own) => own == domain,
            Self::Project(_) | Self::Oneself(_) => false,
        }
    }

    /// The one domain that it reaches, if it ends there.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Self::Domain(own) => Some(own),
            Self::Cloud | Self::Project(_) | Self::Oneself(_) => None,
        }
    }
}

/// Who may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody, without a token.
    Anybody,
    /// Whoever has a token.
    Token,
    /// Who has a role in the token's scope.
    Roles {
        /// The lowest in a project. An administrator's reaches beyond it, everywhere.
        project: Option<Role>,
        /// The lowest in a domain; it ends there.
        domain: Option<Role>,
        /// The lowest in the system; it reaches everywhere.
        system: Option<Role>,
        /// Whether any user may, of themself.
        oneself: bool,
    },
}

impl Who {
    /// How far this caller's roles reach; `None`: nowhere.
    pub fn reach(self, caller: &Caller) -> Option<Reach> {
        let own = || Reach::Oneself(caller.user_id.clone());
        let (project, domain, system, oneself) = match self {
            Self::Anybody | Self::Token => {
                return Some(match &caller.scope {
                    Scope::Project(id) => Reach::Project(id.clone()),
                    _ => own(),
                });
            }
            Self::Roles {
                project,
                domain,
                system,
                oneself,
            } => (project, domain, system, oneself),
        };
        let has = |lowest: Option<Role>| match (lowest, caller.role) {
            (Some(lowest), Some(role)) => role >= lowest,
            _ => false,
        };
        let reach = match &caller.scope {
            Scope::Project(id) if has(project) => Some(match caller.role {
                Some(Role::Admin) => Reach::Cloud,
                _ => Reach::Project(id.clone()),
            }),
            Scope::Domain(id) if has(domain) => Some(Reach::Domain(id.clone())),
            Scope::System if has(system) => Some(Reach::Cloud),
            _ => None,
        };
        reach.or_else(|| oneself.then(own))
    }

    /// In words, for refusals: `the role member in a project`.
    pub fn in_words(self) -> String {
        let Self::Roles {
            project,
            domain,
            system,
            oneself,
        } = self
        else {
            return "a token".into();
        };
        let mut ways: Vec<String> = [
            (project, "in a project"),
            (domain, "in the domain"),
            (system, "in the system"),
        ]
        .into_iter()
        .filter_map(|(role, place)| Some(format!("the role {} {place}", role?.as_str())))
        .collect();
        if oneself {
            ways.push("to be about oneself".into());
        }
        ways.join(", or ")
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What is done, by its name in OpenStack's policies.
    pub action: &'static str,
    /// Who may.
    pub who: Who,
    /// Methods and paths that are it, as the routers have them; none if a body's field is.
    pub routes: &'static [(&'static str, &'static str)],
}

impl Rule {
    /// The service whose it is, for its words.
    pub fn service(&self) -> Service {
        match self.action.split(':').next() {
            Some("identity") => Service::Identity,
            Some("os_compute_api" | "placement") => Service::Compute,
            Some("image") => Service::Image,
            _ => Service::Network,
        }
    }

    /// A 403 in the words of its service: what, and what it needs.
    pub fn refusal(&self) -> ApiError {
        let (service, action) = (self.service(), self.action);
        let what = match service {
            Service::Compute => format!("Policy doesn't allow {action} to be performed."),
            Service::Identity => {
                format!("You are not authorized to perform the requested action: {action}.")
            }
            Service::Image => {
                let name = action.strip_prefix("image:").unwrap_or(action);
                format!("You are not authorized to complete {name} action.")
            }
            Service::Network => {
                let name = action.strip_prefix("network:").unwrap_or(action);
                format!("rule:{name} is disallowed by policy.")
            }
        };
        let message = format!("{what} It needs {}.", self.who.in_words());
        ApiError::new(service, StatusCode::FORBIDDEN, message).kind("PolicyNotAuthorized")
    }
}

/// What the table has for a request.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// The row.
    Rule(&'static Rule),
    /// The path is there, the method is not.
    NoMethod,
    /// Neither.
    NoRoute,
}

/// The row of a method at a path, as its router wrote that: `/compute/v2.1/servers/{id}`.
pub fn find(method: &Method, path: &str) -> Found {
    let path = match path.strip_prefix("/compute/v2/") {
        // The same without microversions.
        Some(rest) => &format!("/compute/v2.1/{rest}"),
        None => path,
    };
    let path = match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    };
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    match ROUTES.get(path) {
        None => Found::NoRoute,
        Some(methods) => methods
            .get(method)
            .map_or(Found::NoMethod, |r| Found::Rule(r)),
    }
}

/// Rows by path and method: every request asks.
static ROUTES: LazyLock<HashMap<&str, HashMap<&str, &Rule>>> = LazyLock::new(|| {
    let mut routes = HashMap::<_, HashMap<_, _>>::new();
    for rule in TABLE {
        for (method, path) in rule.routes {
            routes.entry(*path).or_default().insert(*method, rule);
        }
    }
    routes
});

/// Rows by action: a list asks for each thing that it shows.
static ACTIONS: LazyLock<HashMap<&str, &Rule>> =
    LazyLock::new(|| TABLE.iter().map(|rule| (rule.action, rule)).collect());

/// The row of an action.
pub fn action(name: &str) -> Option<&'static Rule> {
    ACTIONS.get(name).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn caller(scope: Scope, role: Option<Role>) -> Caller {
        Caller {
            scope,
            role,
            user_id: "u".into(),
        }
    }

    const WHO: Who = Who::Roles {
        project: Some(Role::Member),
        domain: Some(Role::Manager),
        system: Some(Role::Reader),
        oneself: false,
    };

    #[test]
    fn a_role_reaches_as_far_as_its_scope_and_a_projects_admin_everywhere() {
        let project = || Scope::Project("p".into());
        let domain = || Scope::Domain("d".into());
        for (scope, role, reach) in [
            (project(), None, None),
            (project(), Some(Role::Reader), None),
            (
                project(),
                Some(Role::Member),
                Some(Reach::Project("p".into())),
            ),
            (
                project(),
                Some(Role::Manager),
                Some(Reach::Project("p".into())),
            ),
            (project(), Some(Role::Admin), Some(Reach::Cloud)),
            (domain(), Some(Role::Member), None),
            (
                domain(),
                Some(Role::Manager),
                Some(Reach::Domain("d".into())),
            ),
            // A domain's administrator ends at the domain.
            (domain(), Some(Role::Admin), Some(Reach::Domain("d".into()))),
            (Scope::System, None, None),
            (Scope::System, Some(Role::Reader), Some(Reach::Cloud)),
            (Scope::Unscoped, Some(Role::Admin), None),
        ] {
            let asks = caller(scope, role);
            assert_eq!(WHO.reach(&asks), reach, "{asks:?}");
        }
    }

    #[test]
    fn oneself_is_reached_by_whoever_has_no_role_for_more() {
        let who = Who::Roles {
            project: Some(Role::Admin),
            domain: None,
            system: None,
            oneself: true,
        };
        let nobody = caller(Scope::Unscoped, None);
        assert_eq!(who.reach(&nobody), Some(Reach::Oneself("u".into())));
        let admin = caller(Scope::Project("p".into()), Some(Role::Admin));
        assert_eq!(who.reach(&admin), Some(Reach::Cloud));
    }

    #[test]
    fn a_reach_covers_what_it_says() {
        for (reach, project, domain) in [
            (Reach::Cloud, true, true),
            (Reach::Project("x".into()), true, false),
            (Reach::Project("y".into()), false, false),
            (Reach::Domain("x".into()), false, true),
            (Reach::Oneself("x".into()), false, false),
        ] {
            assert_eq!(reach.covers("x"), project, "{reach:?}");
            assert_eq!(reach.covers_domain("x"), domain, "{reach:?}");
        }
    }

    #[test]
    fn an_action_and_a_route_have_one_row() {
        let mut actions = BTreeSet::new();
        let mut routes = BTreeSet::new();
        for rule in TABLE {
            assert!(actions.insert(rule.action), "{}", rule.action);
            for route in rule.routes {
                assert!(routes.insert(route), "{route:?}");
            }
        }
    }

    #[test]
    fn a_route_is_found_by_its_method_and_a_head_is_a_get() {
        let list = "/compute/v2.1/servers";
        for (method, path, action) in [
            (Method::GET, list, "os_compute_api:servers:index"),
            (Method::HEAD, list, "os_compute_api:servers:index"),
            (
                Method::GET,
                "/compute/v2/servers",
                "os_compute_api:servers:index",
            ),
            (Method::POST, list, "os_compute_api:servers:create"),
        ] {
            match find(&method, path) {
                Found::Rule(rule) => assert_eq!(rule.action, action),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(find(&Method::PATCH, list), Found::NoMethod));
        assert!(matches!(find(&Method::GET, "/x"), Found::NoRoute));
    }

    #[test]
    fn a_refusal_is_in_its_services_words_and_says_what_it_needs() {
        for (name, words) in [
            (
                "os_compute_api:servers:create",
                "Policy doesn't allow os_compute_api:servers:create to be performed. \
                 It needs the role member in a project.",
            ),
            (
                "network:create_network",
                "rule:create_network is disallowed by policy. \
                 It needs the role member in a project.",
            ),
        ] {
            assert_eq!(action(name).unwrap().refusal().message, words);
        }
    }
}
