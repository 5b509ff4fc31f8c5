//! What must stand in a text for a pattern to fit: found in one pass for hundreds of patterns, so that only few of
//! them have to be tried. A pattern that is not understood here is always tried.

/// Shorter ones stand in every text, and so tell nothing.
const MIN_OCTETS: usize = 3;
/// Beyond this length a longer one tells no more.
const ENOUGH_OCTETS: usize = 6;
/// The most texts of which one must stand there.
const MAX_CHOICES: usize = 60;

/// Texts of which one must stand where the pattern fits. `None` where there are no such.
pub(super) fn needles(pattern: &str) -> Option<Vec<String>> {
    let mut reader = Reader { rest: pattern.chars().peekable(), is_odd: false };
    let choices = reader.choices(0);
    let is_whole = !reader.is_odd && reader.rest.peek().is_none();
    choices.filter(|choices| is_whole && choices.iter().all(|choice| choice.len() >= MIN_OCTETS))
}

struct Reader<'p> {
    rest: std::iter::Peekable<std::str::Chars<'p>>,
    /// Something that is not understood was met.
    is_odd: bool,
}

/// How often the thing before a quantifier stands there.
#[derive(PartialEq, Eq)]
enum Times {
    Once,
    AtLeastOnce,
    Perhaps,
}

/// The best of what must stand in one alternative.
#[derive(Default)]
struct Best {
    run: String,
    best: Option<Vec<String>>,
}

impl Best {
    fn end_run(&mut self) {
        if !self.run.is_empty() {
            let run = vec![std::mem::take(&mut self.run)];
            self.offer(run);
        }
    }

    fn offer(&mut self, choices: Vec<String>) {
        let worth = |choices: &Vec<String>| {
            let least = choices.iter().map(String::len).min().unwrap_or(0).min(ENOUGH_OCTETS);
            (least, std::cmp::Reverse(choices.len()))
        };
        if choices.len() <= MAX_CHOICES && self.best.as_ref().is_none_or(|best| worth(&choices) > worth(best))
        {
            self.best = Some(choices);
        }
    }
}

impl Reader<'_> {
    /// Alternatives up to the end or the closing bracket. `None` where one of them needs nothing.
    fn choices(&mut self, depth: usize) -> Option<Vec<String>> {
        let mut all = Some(Vec::new());
        loop {
            match (self.sequence(depth), &mut all) {
                (Some(choices), Some(all)) => all.extend(choices),
                _ => all = None,
            }
            if self.rest.next_if_eq(&'|').is_none() {
                return all;
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Option<Vec<String>> {
        let mut best = Best::default();
        while let Some(next) = self.rest.next_if(|c| *c != '|' && !(*c == ')' && depth > 0)) {
            match next {
                '(' => {
                    self.is_odd |= depth > 20 || self.rest.next_if_eq(&'?').is_some();
                    if self.is_odd {
                        return None;
                    }
                    let choices = self.choices(depth + 1);
                    self.is_odd |= self.rest.next() != Some(')');
                    best.end_run();
                    if self.times() != Times::Perhaps
                        && let Some(choices) = choices
                    {
                        best.offer(choices);
                    }
                }
                '[' => {
                    self.class();
                    best.end_run();
                    self.times();
                }
                '.' => {
                    best.end_run();
                    self.times();
                }
                '^' | '$' => {}
                '\\' => self.escaped(&mut best),
                c => self.literal(c, &mut best),
            }
        }
        best.end_run();
        best.best
    }

    fn escaped(&mut self, best: &mut Best) {
        match self.rest.next() {
            Some('b') => {}
            Some('w' | 'W' | 's' | 'S' | 'd' | 'D') => {
                best.end_run();
                self.times();
            }
            Some(c) if c.is_ascii_punctuation() => self.literal(c, best),
            _ => self.is_odd = true,
        }
    }

    fn literal(&mut self, c: char, best: &mut Best) {
        match self.times() {
            Times::Once => best.run.push(c),
            Times::AtLeastOnce => {
                best.run.push(c);
                best.end_run();
            }
            Times::Perhaps => best.end_run(),
        }
    }

    fn times(&mut self) -> Times {
        let times = match self.rest.peek() {
            Some('?' | '*') => Times::Perhaps,
            Some('+') => Times::AtLeastOnce,
            Some('{') => {
                let bounds: String = std::iter::from_fn(|| self.rest.next_if(|c| *c != '}')).collect();
                if bounds.starts_with("{0") { Times::Perhaps } else { Times::AtLeastOnce }
            }
            _ => return Times::Once,
        };
        // The quantifier's last character; a lazy one has another behind it.
        self.rest.next();
        self.rest.next_if_eq(&'?');
        times
    }

    /// A closing bracket at the start of a class is a member of it.
    fn class(&mut self) {
        self.rest.next_if_eq(&'^');
        self.rest.next_if_eq(&']');
        loop {
            match self.rest.next() {
                Some('\\') => _ = self.rest.next(),
                Some('[') => self.is_odd = true,
                Some(']') => return,
                Some(_) => {}
                None => {
                    self.is_odd = true;
                    return;
                }
            }
        }
    }
}

/// A needle, and the numbers that it was added with.
type Needle = (Box<[u8]>, Vec<usize>);

/// Finds many needles in one pass, each with the number that it was added with.
#[derive(Debug)]
pub(super) struct Finder {
    /// For each mix of three octets, 1 + the bucket of the needles that begin with them; 0 where there are none.
    slots: Vec<u16>,
    buckets: Vec<Vec<Needle>>,
}

const SLOTS: usize = 1 << 14;

impl Default for Finder {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS], buckets: Vec::new() }
    }
}

impl Finder {
    fn slot(start: &[u8]) -> usize {
        let mixed =
            start.iter().take(MIN_OCTETS).fold(0_usize, |mixed, octet| (mixed << 5) ^ usize::from(*octet));
        mixed % SLOTS
    }

    /// Adds a needle of at least [`MIN_OCTETS`].
    pub(super) fn add(&mut self, needle: String, number: usize) {
        let slot = &mut self.slots[Self::slot(needle.as_bytes())];
        if *slot == 0 {
            self.buckets.push(Vec::new());
            // There are fewer buckets than slots.
            *slot = u16::try_from(self.buckets.len()).unwrap_or(u16::MAX);
        }
        let bucket = &mut self.buckets[usize::from(*slot) - 1];
        let needle = needle.into_bytes().into_boxed_slice();
        match bucket.iter_mut().find(|(known, _)| *known == needle) {
            Some((_, numbers)) => numbers.push(number),
            None => bucket.push((needle, vec![number])),
        }
    }

    /// The numbers of all needles that stand in a text, some of them more than once.
    pub(super) fn find(&self, text: &str) -> Vec<usize> {
        let octets = text.as_bytes();
        let mut found = Vec::new();
        for (at, start) in octets.windows(MIN_OCTETS).enumerate() {
            let slot = self.slots[Self::slot(start)];
            if slot == 0 {
                continue;
            }
            for (needle, numbers) in &self.buckets[usize::from(slot) - 1] {
                if octets[at..].starts_with(needle) {
                    found.extend_from_slice(numbers);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_stand_there_is_found() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("user unknown", Some(&["user unknown"])),
            ("over ?quota", Some(&["quota"])),
            ("(no such|unknown) .{0,30}(host|domain)", Some(&["no such", "unknown"])),
            ("mail(box|drop) full", Some(&[" full"])),
            ("(a|bc)?d*", None),
            ("x?", None),
            ("[a-z]+@boxbe\\.", Some(&["@boxbe."])),
            ("\\bspam", Some(&["spam"])),
            ("ab", None),
            ("(?i)spam", None),
            ("long enough|ab", None),
            ("a{0,3}quota{2}", Some(&["quota"])),
            ("(user|x)", None),
        ];
        for (pattern, wanted) in table {
            let wanted = wanted.map(|wanted| wanted.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            assert_eq!(needles(pattern), wanted, "{pattern}");
        }
    }
}
