//! The rule file: phrases, names and patterns by which mails are known. Data, in the order of the file.
//!
//! Patterns see small letters, and one blank wherever white space stands. They work on octets: `.` and classes mean
//! one octet, text beyond ASCII is matched as it is written.

use std::path::Path;
use std::sync::LazyLock;

use super::patterns::{Pattern, Patterns, plain, problem_of};
use super::reason::Reason;
use super::says::{SAYS, SUBS, Says};
use super::verdict::Sub;
use crate::config::Problems;
use crate::config::reader::{Document, Problem, Section};
use crate::parse::Mail;

/// The name of the file, in the configuration folder.
pub const FILE: &str = "bounce-rules.toml";

const SHIPPED: &str = include_str!("../../config/bounce-rules.toml");

static ONLY_SHIPPED: LazyLock<Rules> = LazyLock::new(|| {
    let files = [(Path::new(FILE), SHIPPED)];
    // A test holds that the shipped file is sound.
    Rules::read(&files).unwrap_or_else(|_| Rules::empty())
});

/// One rule. It fits where each of the places that it names has one of its patterns.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) says: Says,
    pub(super) sub: Option<Sub>,
    /// The places that it names, as bits.
    places: u8,
}

/// One reason. It fits where its patterns, codes or both do.
#[derive(Debug)]
struct ReasonRule {
    reason: Reason,
    /// Asked only where neither a phrase nor a code tells.
    is_weak: bool,
    has_patterns: bool,
    status: Vec<String>,
    reply: Vec<String>,
}

/// A place in a mail where patterns look.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    From,
    Subject,
    Text,
    Header(String),
}

impl Place {
    fn bit(&self) -> u8 {
        match self {
            Self::From => 1,
            Self::Subject => 2,
            Self::Text => 4,
            Self::Header(_) => 8,
        }
    }
}

/// The rules, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    places: Vec<(Place, Patterns)>,
    reasons: Vec<ReasonRule>,
    diagnosis: Patterns,
}

/// Patterns on their way into a set, with the places that they were read from.
#[derive(Default)]
struct Gathered {
    rules: Vec<Rule>,
    places: Vec<(Place, Vec<(String, usize)>)>,
    reasons: Vec<ReasonRule>,
    diagnosis: Vec<(String, usize)>,
    /// Whether the patterns of the file are known to be patterns.
    is_tried: bool,
}

impl Rules {
    /// The rules that come with the program.
    pub fn shipped() -> &'static Self {
        &ONLY_SHIPPED
    }

    /// The rules of the configuration folder's file, if there is one, before those that come with the program.
    pub fn load(folder: &Path) -> Result<Self, Problems> {
        let file = folder.join(FILE);
        match std::fs::read_to_string(&file) {
            // The folder of the sources holds the shipped file itself.
            Ok(own) if own != SHIPPED => Self::read(&[(&file, &own), (Path::new(FILE), SHIPPED)]),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Problems(vec![Problem::of_file(&file, error)]))
            }
            _ => Self::read(&[(Path::new(FILE), SHIPPED)]),
        }
    }

    /// Reads files, earlier ones first; every problem of all of them is told at once.
    pub fn read(files: &[(&Path, &str)]) -> Result<Self, Problems> {
        let mut gathered = Gathered::default();
        let mut problems = Vec::new();
        for (file, source) in files {
            // A test tries each pattern of the shipped file; to do so at each start would take longer than all else.
            gathered.is_tried = *source == SHIPPED;
            let document = Document::parse(file, source);
            let root = document.root();
            root.sections("rules").iter().for_each(|section| gathered.rule(section));
            root.sections("reasons").iter().for_each(|section| gathered.reason(section));
            root.finish();
            problems.extend(document.into_problems());
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let places = gathered.places.into_iter().map(|(place, found)| (place, Patterns::new(found)));
        Ok(Self {
            rules: gathered.rules,
            places: places.collect(),
            reasons: gathered.reasons,
            diagnosis: Patterns::new(gathered.diagnosis),
        })
    }

    fn empty() -> Self {
        Self { rules: Vec::new(), places: Vec::new(), reasons: Vec::new(), diagnosis: Patterns::default() }
    }

    /// Looks at a mail's header.
    pub(super) fn look_at_header<'r>(&'r self, mail: &Mail) -> Evidence<'r> {
        let mut met = vec![0; self.rules.len()];
        for (place, patterns) in &self.places {
            let mut mark = |text: &str| patterns.mark(text, place.bit(), &mut met);
            match place {
                Place::From => mail.headers.all("from").take(2).for_each(&mut mark),
                Place::Subject => mail.headers.all("subject").take(1).for_each(&mut mark),
                Place::Header(name) => mail.headers.all(name).take(4).for_each(&mut mark),
                Place::Text => {}
            }
        }
        self.evidence(met)
    }

    /// Looks at a mail's text too, after its header.
    pub(super) fn look_at_text<'r>(&'r self, mail: &Mail, header: &Evidence<'r>) -> Evidence<'r> {
        let mut met = header.met.clone();
        let patterns = self.places.iter().find(|(place, _)| *place == Place::Text);
        patterns.into_iter().for_each(|(place, patterns)| patterns.mark(&mail.text, place.bit(), &mut met));
        self.evidence(met)
    }

    fn evidence(&self, met: Vec<u8>) -> Evidence<'_> {
        let fitting = self.rules.iter().zip(&met).filter(|(rule, met)| rule.places & !**met == 0);
        Evidence { rules: fitting.map(|(rule, _)| rule).collect(), met }
    }

    /// The first reasons that fit what a host said and its codes: among those that tell, and among the weak ones.
    pub(super) fn reasons(
        &self,
        words: &str,
        status: Option<&str>,
        reply: Option<u16>,
    ) -> [Option<Reason>; 2] {
        if words.trim().is_empty() && status.is_none() && reply.is_none() {
            return [None, None];
        }
        let text = plain(words);
        let candidates: Vec<&Pattern> = self.diagnosis.candidates(&text).collect();
        let reply = reply.map(|reply| reply.to_string());
        let has = |wanted: &[String], code: Option<&str>| {
            wanted.is_empty() || code.is_some_and(|code| wanted.iter().any(|one| one == code))
        };
        // Patterns come in the order of their rules.
        let of_rule = |number: usize| {
            let start = candidates.partition_point(|pattern| pattern.owner < number);
            candidates[start..].iter().take_while(move |pattern| pattern.owner == number)
        };
        let first = |is_weak: bool| {
            let fits = |(number, rule): &(usize, &ReasonRule)| {
                rule.is_weak == is_weak
                    && has(&rule.status, status)
                    && has(&rule.reply, reply.as_deref())
                    && (!rule.has_patterns || of_rule(*number).any(|pattern| pattern.fits(&text)))
            };
            self.reasons.iter().enumerate().find(fits).map(|(_, rule)| rule.reason)
        };
        let telling = first(false);
        // Weak evidence is not looked at where there is better.
        [telling, if telling.is_some() { None } else { first(true) }]
    }
}

/// The rules that fit a mail, in their order.
pub(super) struct Evidence<'r> {
    rules: Vec<&'r Rule>,
    /// For each rule, the places that it fits.
    met: Vec<u8>,
}

impl<'r> Evidence<'r> {
    /// The first that says one of these.
    pub(super) fn first(&self, says: &[Says]) -> Option<&'r Rule> {
        self.rules.iter().copied().find(|rule| says.contains(&rule.says))
    }

    /// The finer kind of the first that says this and has one.
    pub(super) fn sub(&self, says: Says) -> Option<Sub> {
        self.rules.iter().filter(|rule| rule.says == says).find_map(|rule| rule.sub)
    }

    /// The first that says one of these and looks into the text.
    pub(super) fn in_text(&self, says: &[Says]) -> Option<&'r Rule> {
        let looks = |rule: &&Rule| rule.places & Place::Text.bit() != 0;
        self.rules.iter().copied().filter(looks).find(|rule| says.contains(&rule.says))
    }

    /// The first that says one of these and looks at the header.
    pub(super) fn in_header(&self, says: &[Says]) -> Option<&'r Rule> {
        let looks = |rule: &&Rule| rule.places & !Place::Text.bit() != 0;
        self.rules.iter().copied().filter(looks).find(|rule| says.contains(&rule.says))
    }
}

impl Gathered {
    fn rule(&mut self, section: &Section<'_>) {
        let name: Option<String> = section.required("name");
        let says = section.one_of("says", &SAYS);
        if says.is_none() && !section.names("says") {
            section.problem("says", "missing");
        }
        let sub = section.one_of("sub", &SUBS);
        let number = self.rules.len();
        let header = section.text("header");
        let places = [
            ("from", Some(Place::From)),
            ("subject", Some(Place::Subject)),
            ("text", Some(Place::Text)),
            ("value", header.map(Place::Header)),
        ];
        let mut bits = 0;
        for (key, place) in places {
            let patterns = self.patterns(section, key);
            match place {
                // A header without a value only has to be there.
                Some(place @ Place::Header(_)) if patterns.is_empty() => {
                    bits |= place.bit();
                    self.add(place, vec![String::new()], number);
                }
                Some(place) if !patterns.is_empty() => {
                    bits |= place.bit();
                    self.add(place, patterns, number);
                }
                None if !patterns.is_empty() => section.problem("header", "missing; it names the field"),
                _ => {}
            }
        }
        if bits == 0 {
            section.problem("subject", "or from, text or header must be given");
        }
        section.finish();
        let name = name.unwrap_or_default();
        self.rules.push(Rule { name, says: says.unwrap_or(Says::Other), sub, places: bits });
    }

    fn add(&mut self, place: Place, patterns: Vec<String>, number: usize) {
        let at = self.places.iter().position(|(known, _)| *known == place).unwrap_or_else(|| {
            self.places.push((place, Vec::new()));
            self.places.len() - 1
        });
        self.places[at].1.extend(patterns.into_iter().map(|pattern| (pattern, number)));
    }

    fn reason(&mut self, section: &Section<'_>) {
        let reason = section.one_of("reason", Reason::ALL);
        if reason.is_none() && !section.names("reason") {
            section.problem("reason", "missing");
        }
        let number = self.reasons.len();
        let found = self.patterns(section, "text");
        let (status, reply) = (section.texts("status"), section.texts("reply"));
        let is_weak = section.one_of("evidence", &[("strong", false), ("weak", true)]).unwrap_or(false);
        if found.is_empty() && status.is_empty() && reply.is_empty() {
            section.problem("text", "or status or reply must be given");
        }
        section.finish();
        let has_patterns = !found.is_empty();
        self.diagnosis.extend(found.into_iter().map(|pattern| (pattern, number)));
        self.reasons.push(ReasonRule {
            reason: reason.unwrap_or(Reason::Undefined),
            is_weak,
            has_patterns,
            status,
            reply,
        });
    }

    /// The patterns of a key; one that is no pattern is a problem.
    fn patterns(&self, section: &Section<'_>, key: &'static str) -> Vec<String> {
        let found = section.texts(key);
        if !self.is_tried {
            for reason in found.iter().filter_map(|pattern| problem_of(pattern)) {
                section.problem(key, reason);
            }
        }
        found
    }
}
