//! Vocabulary that is twtrace's own: enumerations whose values are words, in every output and in what is read back. Those
//! that the kernel boundary numbers are in [`super::event`].

/// Defines such an enumeration; `by` names the function that gives the word.
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

pub(super) use words;
