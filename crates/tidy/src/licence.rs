//! Licence expressions, as SPDX writes them and as older manifests do (`MIT/Apache-2.0`).

/// Whether somebody who accepts the licences in `accepted` may use what `expression` covers:
/// with `OR` one side must be accepted, with `AND` both. `X WITH Y` is a licence of its own.
pub fn is_allowed_by(expression: &str, accepted: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens, accepted };
    let is_allowed = parser.either();
    is_allowed && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    accepted: &'a [&'a str],
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let is_next = self.tokens.first() == Some(&token);
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn either(&mut self) -> bool {
        let mut is_allowed = self.both();
        while self.take("OR") {
            is_allowed |= self.both();
        }
        is_allowed
    }

    fn both(&mut self) -> bool {
        let mut is_allowed = self.single();
        while self.take("AND") {
            is_allowed &= self.single();
        }
        is_allowed
    }

    fn single(&mut self) -> bool {
        if self.take("(") {
            let is_allowed = self.either();
            return self.take(")") && is_allowed;
        }
        let Some((name, rest)) = self.tokens.split_first() else { return false };
        self.tokens = rest;
        let mut name = (*name).to_owned();
        if self.take("WITH") {
            let Some((exception, rest)) = self.tokens.split_first() else { return false };
            self.tokens = rest;
            name = format!("{name} WITH {exception}");
        }
        self.accepted.contains(&name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_spdx_says() {
        let accepted = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];
        let cases = [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(GPL-3.0 OR MIT) AND Zlib", true),
            ("MIT AND (GPL-3.0 OR LGPL-2.1)", false),
            ("GPL-3.0 OR MIT AND Zlib", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("", false),
            ("(MIT", false),
            ("MIT Zlib", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(is_allowed_by(expression, &accepted), expected, "{expression}");
        }
    }
}
