//! The little language of `holdfast txn`.
//!
//! ```text
//! if balance/a = 10          one compare a line; all must hold
//! if balance/b exists
//! then
//! put balance/a 5
//! incr balance/b 5
//! else
//! get balance/a
//! ```

/// What a compare looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The value is equal (or not).
    Value(bool, String),
    /// The key exists, or does not.
    Exists(bool),
    /// It was last changed at this revision.
    Revision(u64),
    /// It has this version count.
    Version(u64),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write.
    Put(String, String),
    /// Delete.
    Delete(String),
    /// Read.
    Get(String),
    /// Add.
    Increment(String, i64),
}

/// A whole script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// All must hold for `success` to run.
    pub compares: Vec<(String, Test)>,
    /// Run if they hold.
    pub success: Vec<Step>,
    /// Run if not.
    pub failure: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    If,
    Then,
    Else,
}

/// Reads a script. A script without `if` and `then` is a list of operations.
///
/// # Errors
/// The line and what is wrong with it.
pub fn parse(text: &str) -> Result<Script, String> {
    let mut script = Script::default();
    let mut part = Part::If;
    for (number, line) in text.lines().enumerate() {
        let fail = |problem: String| format!("line {}: {problem}", number + 1);
        let words = words(line).map_err(fail)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] => {}
            [word, ..] if word.starts_with('#') => {}
            ["then"] if part == Part::If => part = Part::Then,
            ["else"] if part != Part::Else => part = Part::Else,
            ["if", key, rest @ ..] if part == Part::If => {
                script.compares.push(((*key).to_owned(), test(rest).map_err(fail)?));
            }
            operation => {
                let step = step(operation).map_err(fail)?;
                if part == Part::Else {
                    script.failure.push(step);
                } else {
                    part = Part::Then;
                    script.success.push(step);
                }
            }
        }
    }
    Ok(script)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn test(words: &[&str]) -> Result<Test, String> {
    match words {
        ["exists"] => Ok(Test::Exists(true)),
        ["missing"] => Ok(Test::Exists(false)),
        ["=", value] => Ok(Test::Value(true, (*value).to_owned())),
        ["!=", value] => Ok(Test::Value(false, (*value).to_owned())),
        ["revision", "=", n] => Ok(Test::Revision(number(n)?)),
        ["version", "=", n] => Ok(Test::Version(number(n)?)),
        _ => Err("a compare is: KEY = VALUE, KEY != VALUE, KEY exists, KEY missing, \
                  KEY revision = N, KEY version = N"
            .into()),
    }
}

fn step(words: &[&str]) -> Result<Step, String> {
    match words {
        ["put", key, value] => Ok(Step::Put((*key).to_owned(), (*value).to_owned())),
        ["del", key] => Ok(Step::Delete((*key).to_owned())),
        ["get", key] => Ok(Step::Get((*key).to_owned())),
        ["incr", key] => Ok(Step::Increment((*key).to_owned(), 1)),
        ["incr", key, by] => Ok(Step::Increment((*key).to_owned(), number(by)?)),
        _ => Err("an operation is: put KEY VALUE, del KEY, get KEY, incr KEY [BY]".into()),
    }
}

/// Splits at white space; `"…"` keeps it, with `\" \\ \n \t` inside.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None => return Ok(words),
            Some('"') => {
                chars.next();
                words.push(quoted(&mut chars)?);
            }
            Some(_) => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                words.push(word);
            }
        }
    }
}

fn quoted(chars: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut word = String::new();
    loop {
        match chars.next() {
            None => return Err("a quotation is not closed".into()),
            Some('"') => return Ok(word),
            Some('\\') => match chars.next() {
                Some('n') => word.push('\n'),
                Some('t') => word.push('\t'),
                Some(c @ ('"' | '\\')) => word.push(c),
                other => return Err(format!("unknown escape \\{}", other.unwrap_or(' '))),
            },
            Some(c) => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_then_and_else_are_told_apart() {
        let script = parse(
            "# move\nif a = \"1 0\"\nif b missing\nthen\nput a \"x\\ty\"\nincr n -3\nelse\nget a\n",
        )
        .unwrap();
        assert_eq!(
            script.compares,
            [
                ("a".to_owned(), Test::Value(true, "1 0".to_owned())),
                ("b".to_owned(), Test::Exists(false))
            ]
        );
        assert_eq!(
            script.success,
            [Step::Put("a".into(), "x\ty".into()), Step::Increment("n".into(), -3)]
        );
        assert_eq!(script.failure, [Step::Get("a".into())]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, clause) in [
            ("put a", "line 1: an operation is"),
            ("if a ~ b", "line 1: a compare is"),
            ("then\nif a = b", "line 2: an operation is"),
            ("put a \"b", "line 1: a quotation"),
            ("incr a x", "line 1: \"x\" is not a number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(clause), "{error}");
        }
    }
}
