//! The page `docs/crms.md`, made from the profiles.

use std::io::{self, Write};

use super::words;
use crate::config::profile::Profile;
use crate::config::sources::GROUPS;

const HEAD: &str = "# CRMs

How each CRM takes updates, how sure that is, and what somebody must set up in it. This page is what
`aftercall profile docs` prints: change the profiles in `config/profiles/`, then

```sh
aftercall profile docs > docs/crms.md
```

A *token* is what names the ticket in a mail. A wrong token is no error to a CRM: it opens a new ticket. So an id
without the profile's form, and a URL of another ticket than the id, hold the update for a person.

Text of a session never names another ticket: square brackets in a subject become round, and what the CRM would read
as a ticket or obey as a command is broken up with a dot (`#·close`).

How sure: *live*, seen on a running installation; *source*, read in the product's source; *documentation*, read in the
vendor's; *third party*, read elsewhere; *inferred*, concluded: try it before you rely on it.

";

/// Writes the page.
pub(super) fn write(out: &mut dyn Write, profiles: &[Profile]) -> io::Result<()> {
    out.write_all(HEAD.as_bytes())?;
    writeln!(out, "| CRM | Profile | Channel | Token | The ticket is found | Only inferred |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for profile in profiles {
        writeln!(
            out,
            "| [{}](#{}) | `{}` | {} | {} | {} | {} |",
            profile.title,
            anchor(&profile.title),
            profile.name,
            words::channel(profile),
            code(&words::token(profile)),
            verified(profile),
            words::inferred(profile).join(", ")
        )?;
    }
    for profile in profiles {
        section(out, profile)?;
    }
    Ok(())
}

fn section(out: &mut dyn Write, profile: &Profile) -> io::Result<()> {
    writeln!(out, "\n## {}\n\nProfile `{}`.\n", profile.title, profile.name)?;
    for (heading, text) in words::facts(profile) {
        writeln!(out, "- {heading}: {text}")?;
    }
    writeln!(out, "\n| Facts | Verified | Where |\n|---|---|---|")?;
    for (group, about) in GROUPS {
        if let Some(source) = profile.sources.iter().find(|source| source.group == group) {
            writeln!(out, "| {about} | {} | {} |", source.verified, source.note)?;
        }
    }
    writeln!(out, "\nTo set up:\n")?;
    profile.setup.iter().try_for_each(|step| writeln!(out, "- {step}"))
}

/// How sure it is which ticket a mail is filed in.
fn verified(profile: &Profile) -> String {
    let source = profile.sources.iter().find(|source| source.group == "ticket");
    source.map(|source| source.verified.to_string()).unwrap_or_default()
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase().replace(|c: char| !c.is_alphanumeric() && !" -_".contains(c), "");
    kept.replace(' ', "-")
}
