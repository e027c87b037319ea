//! The names in an expression.

use std::path::Path;

use super::{Grouping, Resolver, Wrong};
use crate::{
    filter::spec::{NetnsSpec, Tree},
    model::expression::{Expression, Group, Noun, Primitive},
};

impl Resolver {
    /// An expression with all names in it looked up.
    ///
    /// # Errors
    ///
    /// The [`Wrong`] about the first name that leads nowhere.
    pub fn names(&self, expression: Expression) -> Result<Expression, Wrong> {
        expression.try_map(&mut |asked| match asked {
            Primitive::Named(noun, name) => self.name(noun, name).map(Expression::Is),
            other => Ok(Expression::Is(other)),
        })
    }

    fn name(&self, noun: Noun, name: String) -> Result<Primitive, Wrong> {
        let grouping = match noun {
            Noun::Netns => return Ok(Primitive::Netns(self.netns(&NetnsSpec::named(&name))?.0)),
            Noun::Cgroup => {
                let ids = [self.cgroup(Path::new(&name))?].into();
                return Ok(Primitive::Cgroup(Group { noun, name, top: None, ids }));
            }
            Noun::CgroupTree => return Ok(below(noun, self.tree(Path::new(&name))?, name)),
            Noun::Container => Grouping::Container,
            Noun::Unit => Grouping::Unit,
        };
        let group = self.group(grouping, &name)?;
        // What no task has closed belongs to it too, where it has its namespace to itself.
        match (group.netns.first(), &group.cgroup) {
            (Some(netns), _) if group.has_own_netns => Ok(Primitive::Netns(*netns)),
            (_, Some(cgroup)) => Ok(below(noun, self.tree(Path::new(cgroup.trim_start_matches('/')))?, name)),
            (_, None) => Err(grouping.without_cgroup(&name, &group)),
        }
    }
}

fn below(noun: Noun, tree: Tree, name: String) -> Primitive {
    Primitive::Cgroup(Group { noun, name, top: Some(tree.path), ids: tree.ids.into_iter().collect() })
}
