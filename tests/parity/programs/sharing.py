"""`compact_name_scope` and `share_scope`: variables that lie elsewhere than under a module's own name."""

from typing import Any

from ..table import program


@program()
def compact_name_scopes(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(5)(nn.Dense(4)(x))

        @nn.compact_name_scope
        def down(self, x):
            return nn.Dense(3)(x)

        def __call__(self, x):
            return self.down(self.up(x)) + self.down(self.up(x))

    return Net()


@program(method="up")
def compact_name_scope_as_method(nn: Any) -> Any:
    return compact_name_scopes(nn)


@program()
def compact_name_scope_in_compact(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3)(self.first(x))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.up(nn.Dense(3)(x))), self.up(x)

    return Net()


@program()
def share_scope_with_a_field(nn: Any) -> Any:
    class Adapted(nn.Module):
        base: Any

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.base(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted(nn.Dense(3))(Adapted(nn.Dense(3))(x))

    return Net()


@program()
def share_scope_with_a_child(nn: Any) -> Any:
    class Adapted(nn.Module):
        def setup(self):
            self.child = nn.Dense(3)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.child(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted()(x)

    return Net()
