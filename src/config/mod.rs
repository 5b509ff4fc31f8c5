//! Configuration: what the files may say ([`reader`]), and what the code may use ([`Config`]).
//!
//! `aftercall.toml` holds what is common, `tenants/NAME.toml` one tenant each, `profiles/NAME.toml` and
//! `recipes/NAME.toml` profiles and recipes of the integrator's own. Everything wrong in all of them is told at once.

pub mod acts;
pub mod chosen;
pub mod dkim;
pub mod mailbox;
pub mod marks;
pub mod oauth2;
pub mod profile;
pub mod rate;
pub mod reactions;
pub mod reader;
pub mod recipe;
pub mod record;
pub mod secret;
pub mod shipped;
pub mod sources;
pub mod tenant;
pub mod ticket;
pub mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use self::mailbox::Mailbox;
use self::profile::{Profile, SHIPPED};
use self::rate::Budget;
use self::reader::{Document, Problem, Section};
use self::recipe::Recipe;
use self::secret::Secret;
use self::tenant::{Known, Overrides, Tenant};

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that it came from.
    pub folder: PathBuf,
    /// The database of the outbox and the log.
    pub store: StorePlace,
    /// How the program's own log is written.
    pub log: LogFormat,
    /// The largest session file in octets.
    pub session_bytes: usize,
    /// What a relay that several tenants share takes from all of them together, by `host:port`.
    pub relays: BTreeMap<String, SharedRelay>,
    /// The tenants by name.
    pub tenants: BTreeMap<String, Tenant>,
    /// Where mail comes back, in the order of the file.
    pub mailboxes: Vec<Mailbox>,
}

/// What a relay takes from all tenants together.
#[derive(Debug, Clone, Default)]
pub struct SharedRelay {
    /// The most connections at a time.
    pub connections: Option<usize>,
    /// The most messages in a time.
    pub budgets: Vec<Budget>,
}

/// Where the database is.
#[derive(Debug, Clone)]
pub enum StorePlace {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL server, by a URL that may hold a password.
    Server(Secret),
}

impl StorePlace {
    /// A path, or a URL that starts with `postgres://` or `postgresql://`.
    pub fn parse(text: &str) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::Server(Secret::new(text.to_owned()))
        } else {
            Self::File(PathBuf::from(text))
        }
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            // What stands before the @ may be a password.
            Self::Server(url) => {
                let url = url.expose();
                let place =
                    url.rsplit_once('@').map_or_else(|| url.split("://").last(), |(_, place)| Some(place));
                let place = place.unwrap_or_default().split('?').next().unwrap_or_default();
                write!(f, "postgres://{place}")
            }
        }
    }
}

/// How the program's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Config {
    /// Reads the configuration folder. A store given here takes the place of the file's.
    pub fn load(folder: &Path, store: Option<&StorePlace>, overrides: &Overrides) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let tenants = files(&folder.join("tenants"), &mut problems);
        let names = tenants.iter().map(|(name, ..)| name.clone()).collect();
        let mut config = Self::common(folder, &names, &mut problems);
        if let Some(store) = store {
            config.store = store.clone();
        }
        // Compiling the patterns of all profiles takes longer than the rest of a start.
        let named: Vec<String> =
            tenants.iter().filter_map(|(_, file, source)| named_profile(file, source)).collect();
        let is_wanted = |name: &str, file: &Path| {
            file.parent() != Some(Path::new("")) || named.iter().any(|known| known == name)
        };
        let known = Known {
            profiles: profiles(folder, is_wanted, &mut problems),
            recipes: recipes(folder, &mut problems),
        };
        for (name, file, source) in tenants {
            match tenant::parse(&name, &file, &source, folder, &known, overrides) {
                Ok(tenant) => _ = config.tenants.insert(name, tenant),
                Err(found) => problems.extend(found),
            }
        }
        for tenant in config.tenants.values_mut() {
            let shared = config.relays.get(&tenant.relay.place());
            tenant.budgets.extend(shared.into_iter().flat_map(|relay| relay.budgets.clone()));
            if let Some(record) = &mut tenant.record {
                let shared = config.relays.get(&record.place());
                record.budgets.extend(shared.into_iter().flat_map(|relay| relay.budgets.clone()));
            }
        }
        if config.tenants.is_empty() && problems.is_empty() {
            problems
                .push(Problem::of_file(&folder.join("tenants"), "there is no tenant; add tenants/NAME.toml"));
        }
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// The mailbox of that name. The one of `receive` is there without being configured.
    pub fn mailbox(&self, name: &str) -> Option<Mailbox> {
        let found = self.mailboxes.iter().find(|mailbox| mailbox.name == name).cloned();
        found.or_else(|| (name == mailbox::PIPE).then(Mailbox::pipe))
    }

    /// Reads `aftercall.toml`; a folder without one has the defaults. `tenants` are the names of those that there are.
    fn common(folder: &Path, tenants: &BTreeSet<String>, problems: &mut Vec<Problem>) -> Self {
        let file = folder.join("aftercall.toml");
        let source = match std::fs::read_to_string(&file) {
            Ok(source) => source,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                problems.push(Problem::of_file(&file, error));
                String::new()
            }
        };
        let document = Document::parse(&file, &source);
        let root = document.root();
        let config = Self {
            folder: folder.to_owned(),
            store: store(&root.section("store"), folder),
            log: root
                .one_of("log", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
                .unwrap_or(LogFormat::Text),
            session_bytes: root
                .integer("session_bytes", 1_000..=100_000_000)
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(4_000_000),
            relays: shared_relays(&root),
            tenants: BTreeMap::new(),
            mailboxes: mailbox::read(&root, folder, tenants),
        };
        root.finish();
        problems.extend(document.into_problems());
        config
    }
}

/// `[[relays]]`: each names a relay by its `place`, as `host:port`.
fn shared_relays(root: &Section<'_>) -> BTreeMap<String, SharedRelay> {
    let mut relays = BTreeMap::new();
    for section in root.sections("relays") {
        let place: Option<String> = section.required("place");
        let connections =
            section.integer("connections", 1..=1024).and_then(|most| usize::try_from(most).ok());
        let place = place.unwrap_or_default();
        let budgets = rate::read(&section, &format!("relay {place}"));
        section.finish();
        relays.insert(place, SharedRelay { connections, budgets });
    }
    relays
}

/// `file`, or `url` with its password apart.
fn store(section: &Section<'_>, folder: &Path) -> StorePlace {
    let (file, url) = (section.text("file"), section.text("url"));
    let password = secret::load(section, "password", folder);
    let place = match (file, url) {
        (Some(_), Some(_)) => {
            section.problem("url", "give either file or url");
            None
        }
        (None, Some(url)) => match server(&url, password.as_ref()) {
            Ok(url) => Some(StorePlace::Server(url)),
            Err(reason) => {
                section.problem("url", reason);
                None
            }
        },
        (file, None) => file.map(|file| StorePlace::File(folder.join(file))),
    };
    section.finish();
    place.unwrap_or_else(|| StorePlace::File(folder.join("aftercall.sqlite")))
}

/// The URL with the password in it, as the client library takes it.
fn server(url: &str, password: Option<&Secret>) -> Result<Secret, String> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or("must start with postgres://")?;
    let Some(password) = password else { return Ok(Secret::new(url.to_owned())) };
    let (user, place) = rest.split_once('@').ok_or("needs a user before @ when a password is given")?;
    if user.contains(':') {
        return Err("holds a password and there is another one beside it".to_owned());
    }
    let encoded: String = password.expose().bytes().map(|byte| format!("%{byte:02X}")).collect();
    Ok(Secret::new(format!("postgres://{user}:{encoded}@{place}")))
}

/// The texts of the shipped profiles and of those of the folder, which take precedence; by name, each with its file.
pub fn profile_sources(folder: &Path, problems: &mut Vec<Problem>) -> BTreeMap<String, (PathBuf, String)> {
    let shipped = SHIPPED.map(|(name, source)| (name.to_owned(), (PathBuf::from(name), source.to_owned())));
    let own = files(&folder.join("profiles"), problems);
    shipped.into_iter().chain(own.into_iter().map(|(name, file, source)| (name, (file, source)))).collect()
}

/// The profile that a tenant's file names.
fn named_profile(file: &Path, source: &str) -> Option<String> {
    Document::parse(file, source).root().section("profile").text("name")
}

/// The shipped profiles and those of the folder, which take precedence, as far as they are wanted; asked by name and
/// file, which has no folder for a shipped one.
pub fn profiles(
    folder: &Path,
    is_wanted: impl Fn(&str, &Path) -> bool,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Profile> {
    let mut profiles = BTreeMap::new();
    let sources = profile_sources(folder, problems).into_iter();
    for (name, (file, source)) in sources.filter(|(name, (file, _))| is_wanted(name, file)) {
        match Profile::parse(&name, &file, &source) {
            Ok(profile) => _ = profiles.insert(name, profile),
            Err(found) => problems.extend(found),
        }
    }
    profiles
}

/// The shipped recipes and those of the folder, which take precedence.
fn recipes(folder: &Path, problems: &mut Vec<Problem>) -> BTreeMap<String, Recipe> {
    let shipped = recipe::SHIPPED.map(|(name, source)| (name.to_owned(), name.into(), source.to_owned()));
    let own = files(&folder.join("recipes"), problems);
    let mut recipes = BTreeMap::new();
    for (name, file, source) in shipped.into_iter().chain(own) {
        match Recipe::parse(&name, &file, &source) {
            Ok(recipe) => _ = recipes.insert(name, recipe),
            Err(found) => problems.extend(found),
        }
    }
    recipes
}

/// The TOML files of a folder as stem, path and text, by name; nothing where the folder is not there.
fn files(folder: &Path, problems: &mut Vec<Problem>) -> Vec<(String, PathBuf, String)> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(Problem::of_file(folder, error));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match std::fs::read_to_string(&path) {
            Ok(source) => files.push((stem, path, source)),
            Err(error) => problems.push(Problem::of_file(&path, error)),
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_configuration_is_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let config = Config::load(&folder, None, &Overrides::default()).unwrap();
        assert!(config.tenants.contains_key("acme"), "{:?}", config.tenants.keys());
    }

    #[test]
    fn problems_of_all_files_are_told_together() {
        let folder = tempfile::tempdir().unwrap();
        for (name, source) in [
            ("aftercall.toml", "logs = \"json\"\n"),
            ("tenants/a.toml", "title = 3\n"),
            ("tenants/b.toml", "[relay\n"),
            ("profiles/own.toml", "title = \"Own\"\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, source).unwrap();
        }
        let told = Config::load(folder.path(), None, &Overrides::default()).unwrap_err().to_string();
        for part in [
            "aftercall.toml:1: logs: unknown key; did you mean \"log\"?",
            "a.toml:1: title: must be a string",
            "a.toml: sender.address: missing",
            "b.toml:1: ",
            "own.toml: subject: missing",
        ] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
    }

    #[test]
    fn a_profile_of_the_folder_can_be_chosen_and_replaces_a_shipped_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("profiles")).unwrap();
        let own = "title = \"Own\"\nsubject = \"<<{ticket}>>\"\n";
        std::fs::write(folder.path().join("profiles/generic.toml"), own).unwrap();
        let profiles = profiles(folder.path(), |_, _| true, &mut Vec::new());
        assert_eq!(
            (profiles.len(), profiles["generic"].subject.as_deref()),
            (SHIPPED.len(), Some("<<{ticket}>>"))
        );
    }
}
