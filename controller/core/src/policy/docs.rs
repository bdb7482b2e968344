//! `docs/policy.md`, made from the table.

use super::{Role, TABLE, Who};
use std::fmt::Write as _;

const HEAD: &str = "\
# Who may do what

<!-- Made from controller/core/src/policy/table.rs: BERTH_BLESS=1 cargo test -p \
berth-controller-core policy writes it. -->

A token has a scope (a project, a domain, the system, or none) and roles there. `admin` has all \
that `manager` has, that all of `member`, and that all of `reader`; roles with other names give \
nothing. Each row says the lowest role that may do something, by the token's scope:

- **project**: of what that project has. `admin` reaches everything in the cloud, whatever its \
project, as in OpenStack.
- **domain**: of what is in that domain, and no further, `admin` too. Whom the role `admin` or a \
role in the system was given is beyond it.
- **system**: of everything. Compute, network and image take no such token.
- **oneself**: any user may, of themself.

What another project has is not shown, and answers 404. A row without a route is about a field of \
a body, a query or an answer.
";

fn role(role: Option<Role>) -> &'static str {
    role.map_or("", Role::as_str)
}

/// The page.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for (title, prefix) in [
        ("Identity", "identity:"),
        ("Compute", "os_compute_api:"),
        ("Placement", "placement:"),
        ("Network", "network:"),
        ("Image", "image:"),
    ] {
        let _ = write!(
            page,
            "\n## {title}\n\n| action | project | domain | system | | routes |\n\
             | --- | --- | --- | --- | --- | --- |\n"
        );
        for rule in TABLE.iter().filter(|rule| rule.action.starts_with(prefix)) {
            let cells = match rule.who {
                Who::Anybody => ["", "", "", "anybody"],
                Who::Token => ["", "", "", "any token"],
                Who::Roles {
                    project,
                    domain,
                    system,
                    oneself,
                } => [
                    role(project),
                    role(domain),
                    role(system),
                    if oneself { "oneself" } else { "" },
                ],
            };
            let routes: Vec<String> = rule
                .routes
                .iter()
                .map(|(method, path)| format!("`{method} {path}`"))
                .collect();
            let name = match prefix {
                "network:" | "image:" => rule.action.trim_start_matches(prefix),
                _ => rule.action,
            };
            let _ = writeln!(
                page,
                "| `{name}` | {} | {} |",
                cells.join(" | "),
                routes.join("<br>")
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_documentation_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        if written != render() && std::env::var_os("BERTH_BLESS").is_some() {
            std::fs::write(path, render()).unwrap();
            return;
        }
        assert_eq!(
            written,
            render(),
            "run the test with BERTH_BLESS=1 to write docs/policy.md"
        );
    }

    #[test]
    fn every_row_is_on_the_page() {
        let page = render();
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, TABLE.len());
    }
}
