//! Vocabulary: enumerations whose values are words, in every output and in what is read back.

/// Defines an enumeration of twtrace's own; `by` names the function that gives the word.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident by $word:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every one, in order.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The word in every output.
            #[must_use]
            pub fn $word(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.$word())
            }
        }
    };
}

/// A value of [`vocabulary`] as it is written.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Written {
    /// What has no word.
    Integer(u8),
    /// The word.
    Word(String),
}

/// Defines an enumeration of the boundary: its integers, its JSON words, and a home for integers that are not known.
macro_rules! vocabulary {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:expr, $word:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)*
            /// An integer that this version of twtrace has no word for.
            Unknown(u8),
        }

        impl $name {
            /// Every value that has a word, in the order of the kernel boundary.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value behind an integer of the kernel boundary; never fails.
            #[must_use]
            pub fn from_raw(value: u8) -> Self {
                match value {
                    $(v if v == $value => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            /// The integer of the kernel boundary.
            #[must_use]
            pub fn raw(self) -> u8 {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Unknown(value) => value,
                }
            }

            /// The word used in every output and filter; `?` for what is not known.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown(_) => "?",
                }
            }

            /// The value that a word stands for.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        /// The word, or the integer of what has none: so that nothing is lost on the way to a file and back.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::Unknown(value) => serializer.serialize_u8(*value),
                    known => serializer.serialize_str(known.word()),
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match <$crate::model::words::Written as serde::Deserialize>::deserialize(deserializer)? {
                    $crate::model::words::Written::Integer(value) => Ok(Self::from_raw(value)),
                    $crate::model::words::Written::Word(word) => Self::from_word(&word).ok_or_else(|| {
                        serde::de::Error::custom(format_args!("'{word}' is no word of {}", stringify!($name)))
                    }),
                }
            }
        }
    };
}

pub(super) use {vocabulary, words};
