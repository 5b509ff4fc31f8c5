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
